"""The one channel through which the server sends notices to its owner."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import urlsplit

import pulumi

from components.config.reader import Section
from components.config.secret import IN_PLAIN_TEXT, TOKEN, read_secret, report_secret

KEY = "notifyToken"
EXAMPLE = "{kind: ntfy, address: https://ntfy.sh/a-topic-nobody-guesses}"
ADDRESS_EXAMPLE = "https://ntfy.sh/a-topic-nobody-guesses"
COMMAND_EXAMPLE = "/run/current-system/sw/bin/tell-me"

# The script on the server accepts the same (server/scripts/notify.sh); its file has one value per line.
_ADDRESS = re.compile(r"https?://[\]\[A-Za-z0-9._~:/?#@!$&()*+,;=%-]+")
_COMMAND = re.compile(r"/[A-Za-z0-9._/+@-]+")

_AT_HOME = (".local", ".lan", ".home", ".internal", ".home.arpa", ".ts.net")
"""Suffixes of names that only local machines answer, so that nobody outside reads traffic without TLS."""


class NotifyKind(StrEnum):
    """What receives notices: an ntfy topic, a Gotify server, any server that accepts JSON, or a program."""

    NTFY = "ntfy"
    GOTIFY = "gotify"
    WEBHOOK = "webhook"
    COMMAND = "command"


@dataclass(frozen=True)
class Notify:
    """Where notices go: an ``address``, or a ``command`` on the server; the other one is None."""

    kind: NotifyKind
    address: str | None
    command: str | None

    @property
    def place(self) -> str:
        """What messages call it: an ntfy topic, or part of an address, may be a password."""
        return self.command or urlsplit(self.address or "").hostname or ""


def read_notify(top: Section) -> Notify | None:
    """Read the group `notify`; None if no notices are sent."""
    if not top.value("notify"):
        return None
    section = top.section("notify", example=EXAMPLE)
    kind = section.choice("kind", choices=list(NotifyKind), missing="it says what receives the notices")
    by_command = kind == NotifyKind.COMMAND
    unused = "address" if by_command else "command"
    if section.value(unused) is not None:
        section.report(unused, f"does not apply to kind: {kind}", None)
    notify = Notify(
        kind=NotifyKind(kind or NotifyKind.NTFY),
        address=None if by_command else _address(section),
        command=_command(section) if by_command else None,
    )
    section.refuse_unknown()
    return notify


def _address(section: Section) -> str:
    return section.text(
        "address", example=ADDRESS_EXAMPLE, missing="it is where the notices are sent", check=address_problem
    )


def _command(section: Section) -> str:
    return section.text(
        "command",
        example=COMMAND_EXAMPLE,
        missing="it is the program on the server that receives the notices",
        check=lambda text: (
            None if _COMMAND.fullmatch(text) else "must be the path of a program on the server"
        ),
    )


def address_problem(text: str) -> str | None:
    """Say what is wrong with the address of a channel."""
    try:
        host = urlsplit(text).hostname
    except ValueError:
        host = None
    if not host or not _ADDRESS.fullmatch(text):
        return "must be an address that begins with https:// (or http://, at home)"
    if text.startswith("http://") and not _is_at_home(host):
        return "would be sent without TLS over the internet; it must begin with https://"
    return None


def _is_at_home(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return "." not in host or host.endswith(_AT_HOME)
    return not address.is_global


def read_token(top: Section) -> pulumi.Output[str] | None:
    """Read the token that authenticates our notices to the channel; None if it needs none."""
    return read_secret(top, KEY)


def check_token(top: Section, notify: Notify | None, secret_keys: Collection[str]) -> None:
    """Check the token in plain text; no message may contain it."""
    value = top.value(KEY)
    kind = notify.kind if notify else None
    if value is None:
        if kind is not NotifyKind.GOTIFY or top.problems.has("notify.kind"):
            return
        reason = "a Gotify server accepts notices only with an application's token"
    elif not isinstance(value, str) or not TOKEN.fullmatch(value):
        reason = "must be letters, digits and . _ ~ + / = -, at most 500"
    elif KEY not in secret_keys:
        reason = f"{IN_PLAIN_TEXT}; create a new one"
    elif kind in (None, NotifyKind.COMMAND):
        reason = "is for a channel with an address, and notify has none; leave it out"
    else:
        return
    report_secret(top, KEY, reason)
