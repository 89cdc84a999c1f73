"""Reading JSON that somebody else may have written."""

import json
from typing import Any


def read_document(content: bytes | str) -> Any:
    """Parse JSON.

    Raises:
        ValueError: it is not JSON, or is nested deeper than any of our files.
    """
    try:
        return json.loads(content)
    except RecursionError as error:
        raise ValueError("nested too deep") from error
