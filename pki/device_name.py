"""The rule for device names: each is one safe file name on every file system."""

import re
import unicodedata

from pki.errors import KeystoreError

# A common name holds at most 64 characters (RFC 5280, ub-common-name); 63 is deliberate.
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9_-])?")

NAME_RULE = (
    "1 to 63 letters a-z, digits, dots, dashes and underscores, beginning with a letter or a digit and not "
    "ending with a dot"
)


def device_name(text: str) -> str:
    """Return the name as it is stored, after Unicode NFKC normalisation.

    Normalisation comes first, so that a look-alike (a full-width slash, for example) is treated as the
    character that a file system or a reader would take it for.

    Raises:
        KeystoreError: the name is not one safe path component.
    """
    name = unicodedata.normalize("NFKC", text)
    if not _NAME.fullmatch(name):
        raise KeystoreError(
            f"The device name {text!r} cannot be used as a file name. Use {NAME_RULE}, for example "
            "'phone-anna'."
        )
    return name
