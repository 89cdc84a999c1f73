"""Reading JSON that somebody else may have written."""

import json
from typing import Any


def read_document(content: bytes | str) -> Any:
    """Parse JSON.

    Raises:
        ValueError: it is none, or is nested deeper than anything of ours.
    """
    try:
        return json.loads(content)
    except RecursionError as error:
        raise ValueError("nested too deep") from error
