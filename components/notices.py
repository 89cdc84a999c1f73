"""Where the server sends its notices, so that nobody has to look."""

from __future__ import annotations

import socket
from ipaddress import ip_address
from urllib.parse import urlsplit

import pulumi

from components.config.notify import Notify
from components.engine.options import child_of
from components.remote.remote_script import PayloadFile, Server
from components.remote.server_script import guarded_script

PATIENCE_SECONDS = 3


def channel_file(notify: Notify, token: str | None) -> str:
    """Return the channel as the server stores it: one word and its value per line."""
    words = {"kind": notify.kind, "address": notify.address, "command": notify.command, "token": token}
    return "".join(f"{word} {value}\n" for word, value in words.items() if value)


def silence(notify: Notify) -> str | None:
    """Say why the channel's address does not answer from here; None if it does, or if it is on the server.

    It may still answer the server, which is what matters, and which reports its own result.
    """
    if notify.address is None:
        return None
    parts = urlsplit(notify.address)
    if _is_loopback(parts.hostname or ""):
        return None  # the server's own, not this machine's
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((parts.hostname or "", port), timeout=PATIENCE_SECONDS).close()
    except OSError as error:
        return (
            f"notify: {parts.hostname}:{port} does not answer from this machine ({error}). The exposure goes "
            "on without notices until it answers the server."
        )
    return None


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Notices(pulumi.ComponentResource):
    """The channel on the server, as a file only root can read. If it does not answer, nothing stops."""

    def __init__(
        self,
        name: str,
        *,
        server: Server,
        notify: Notify,
        token: pulumi.Output[str] | None,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("immich-exposure:index:Notices", name, {}, opts)
        # Always secret: anyone who knows an ntfy topic's name can read it and write to it.
        known = pulumi.Output.secret("") if token is None else token
        guarded_script(
            f"{name}-channel",
            server,
            script="notify",
            create=server.line("install"),
            delete=server.line("remove"),
            payload=known.apply(
                lambda text: (PayloadFile("channel", channel_file(notify, text or None), mode="0600"),)
            ),
            opts=child_of(self, opts),
        )
        self.register_outputs({})
