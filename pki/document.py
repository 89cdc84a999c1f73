"""Reading JSON that somebody else may have written."""

import json
from typing import Any


def read_document(content: bytes | str, form: str | int) -> dict[str, Any]:
    """Parse a JSON object whose `format` is this one.

    Raises:
        ValueError: it is not JSON, is nested deeper than any of our files, or has another format.
    """
    try:
        document = json.loads(content)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(document, dict) or document.get("format") != form:
        raise ValueError("unknown format")
    return document
