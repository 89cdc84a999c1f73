"""The stand-in for the internet: the command that runs lab-internet, and queries to its admin interface."""

import json
import os
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from lab import commands, network, places
from lab.errors import LabError
from lab.places import INTERNET_NAMESPACE, Places

ADMIN = "127.0.0.1:29081"  # inside the internet's namespace


def command(where: Places, program: Path, window: socket.socket) -> list[str]:
    """The command line of lab-internet.

    ``window`` is its listening socket in the operator's namespace, inherited.
    """
    tailnet = places.DOMAIN.partition(".")[2]
    return [
        *network.inside(INTERNET_NAMESPACE),
        str(program),
        *("-addr", places.INTERNET_ADDRESS),
        *("-ingress", f"[::]:{places.INGRESS_PORT}"),
        *("-ingress-v4", places.INGRESS_V4),
        *("-ingress-v6", places.INGRESS_V6),
        *("-domain", tailnet),
        # On every address of its namespace, so that a test can make it the public resolvers (network.py).
        *("-dns", "[::]:53"),
        *("-admin", ADMIN),
        *("-state", str(where.internet)),
        *("-acme-ca", str(acme_authority(where))),
        *("-roots", str(where.roots)),
        *("-ready-file", str(ready_file(where))),
        *("-window-fd", str(window.fileno())),
        "-die-with-parent",
    ]


def acme_authority(where: Places) -> Path:
    """PEM of the CA that signed the ACME server's own certificate: tailscaled has to trust it."""
    return where.internet / "acme-ca.pem"


def ready_file(where: Places) -> Path:
    """Exists as soon as every part of lab-internet is listening."""
    return where.internet / "ready"


def open_window() -> socket.socket:
    """The listening socket of the operator's window, in the caller's namespace.

    Raises LabError if the port is taken.
    """
    try:
        return socket.create_server((places.WINDOW_HOST, places.WINDOW_PORT))
    except OSError as error:
        where = f"{places.WINDOW_HOST}:{places.WINDOW_PORT}"
        reason = os.strerror(error.errno or 0)
        raise LabError(
            f"The operator's window cannot listen at {where}: {reason}. End what listens there "
            f"(`ss -ltnp sport = :{places.WINDOW_PORT}` names it) and run `python -m lab up` again."
        ) from error


def ask(path: str, **query: str) -> Any:
    """Query the admin interface, for example ``ask("/caps", https="0")``; returns the decoded JSON."""
    url = f"http://{ADMIN}{path}?{urlencode(query)}"
    curl = ["curl", "--disable", "--silent", "--show-error", "--noproxy", "*", "--max-time", "10", url]
    return json.loads(commands.run([*network.inside(INTERNET_NAMESPACE), *curl]))
