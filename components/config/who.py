"""Who opened what: whether the server counts it, and the key with which it asks Immich for its links."""

from __future__ import annotations

from collections.abc import Collection

import pulumi

from components.config.reader import Section
from components.config.secret import IN_PLAIN_TEXT, TOKEN, read_secret, report_secret

KEY = "immichApiKey"

RIGHT = "sharedLink.read"
"""The only permission the key needs (Immich's Permission; linkreport.go names the rest)."""

WHO_DAYS = 90
"""Days after which an unused link is forgotten, unless the config says otherwise."""


def read_who(top: Section) -> tuple[bool, int]:
    """Read whether opens are counted, and after how many days an unused link is forgotten."""
    days = top.integer("whoDays", default=WHO_DAYS, least=1, most=3650)
    who = top.boolean("who", default=False)
    if days != WHO_DAYS and not who and not top.problems.has("who", "whoDays"):
        top.report("whoDays", "has no effect unless who is true", str(WHO_DAYS))
    return who, days


def read_api_key(top: Section) -> pulumi.Output[str] | None:
    """Read the key of Immich's API; None if Immich is not asked."""
    return read_secret(top, KEY)


def check_api_key(top: Section, secret_keys: Collection[str]) -> None:
    """Check the key in plain text; no message may contain it."""
    value = top.value(KEY)
    if value is None:
        return
    if not isinstance(value, str) or not TOKEN.fullmatch(value):
        reason = "must be the key that Immich shows once: letters, digits and . _ ~ + / = -, at most 500"
    elif KEY not in secret_keys:
        reason = f"{IN_PLAIN_TEXT}; create a new one with the permission {RIGHT} alone"
    else:
        return
    report_secret(top, KEY, reason)
