"""Who opened what: whether the server counts it, and the key with which it asks Immich for its links."""

from __future__ import annotations

import re
from collections.abc import Collection

import pulumi

from components.config.reader import Section

KEY = "immichApiKey"

RIGHT = "sharedLink.read"
"""The only permission the key needs (Immich's Permission; linkreport.go names the rest)."""

WHO_DAYS = 90
"""Days after which an unused link is forgotten, unless the config says otherwise."""

# The script on the server accepts the same (server/scripts/who.sh); its file is one line.
_API_KEY = re.compile(r"[A-Za-z0-9._~+/=-]{1,500}")


def read_who(top: Section) -> tuple[bool, int]:
    """Read whether opens are counted, and after how many days an unused link is forgotten."""
    days = top.integer("whoDays", default=WHO_DAYS, least=1, most=3650)
    who = top.boolean("who", default=False)
    if days != WHO_DAYS and not who and not top.problems.has("who", "whoDays"):
        top.report("whoDays", "has no effect unless who is true", str(WHO_DAYS))
    return who, days


def read_api_key(top: Section) -> pulumi.Output[str] | None:
    """Read the key of Immich's API; None if Immich is not asked."""
    value = top.value(KEY)
    return None if value is None else pulumi.Output.secret(str(value))


def check_api_key(top: Section, secret_keys: Collection[str]) -> None:
    """Check the key in plain text; no message may contain it."""
    value = top.value(KEY)
    if value is None:
        return
    if not isinstance(value, str) or not _API_KEY.fullmatch(value):
        reason = "must be the key that Immich shows once: letters, digits and . _ ~ + / = -, at most 500"
    elif KEY not in secret_keys:
        reason = (
            "must be stored encrypted, but is in the stack file in plain text; create a new one with the "
            f"permission {RIGHT} alone"
        )
    else:
        return
    top.problems.add(KEY, value, reason, f"`pulumi config set --secret {KEY}`")
