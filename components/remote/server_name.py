"""The server's name in the tailnet, which is also its public name."""

from __future__ import annotations

import re

from components.engine.operator_error import OperatorError
from components.engine.server_words import plain


def domain_of(name: str) -> str:
    """Return the server's name if it is valid: it becomes part of addresses that people open.

    Raises ``OperatorError`` for anything else.
    """
    if not re.fullmatch(r"(?=.{1,253}$)(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]{2,63}", name):
        raise OperatorError(
            f"The server says that its name in the tailnet is {plain(name, 80)!r}, which is not a machine's "
            "name; check what runs there."
        )
    return name
