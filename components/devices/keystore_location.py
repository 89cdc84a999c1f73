"""Where the keystore of a stack is, and what can be read there without its passphrase."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pulumi
from pulumi.runtime.rpc import UNKNOWN

from pki import Keystore
from pki.certificate import fingerprint, parse_certificate
from pki.contents import AUTHORITY_STEMS
from pki.files import is_folder


@dataclass(frozen=True)
class KeystoreLocation:
    """Where the keys lie on the operator's machine, whose they are, and the secret that encrypts them."""

    path: str
    stack: str
    passphrase: pulumi.Output[str]

    def read_off(self, props: dict[str, pulumi.Input[Any]]) -> dict[str, pulumi.Input[Any]]:
        """Return properties that were read off the keystore; unknown ones in a preview that does not have it.

        So it shows the same as a preview with the keystore, and its plan fits the `pulumi up` that has it.
        """
        away = pulumi.runtime.is_dry_run() and not is_folder(Path(self.path))
        return dict.fromkeys(props, UNKNOWN) if away else props

    def props(self) -> dict[str, pulumi.Input[Any]]:
        """Return the location as properties of a dynamic resource."""
        return {"keystore": self.path, "stack": self.stack, "passphrase": self.passphrase}


def keystore_of(props: dict[str, Any]) -> Keystore:
    """Return the keystore that ``KeystoreLocation.props`` named, opened with its passphrase."""
    return Keystore(Path(props["keystore"]), props["passphrase"], stack=props["stack"])


def authorities_in(keystore: Path) -> tuple[str, ...]:
    """Return the fingerprints of the authorities in a keystore, which may not exist yet; no key is opened."""
    found = []
    for stem in AUTHORITY_STEMS:
        try:
            found.append(fingerprint(parse_certificate((keystore / f"{stem}.crt").read_bytes())))
        except (OSError, ValueError):
            continue  # the certificate authority's own step says what is wrong with it
    return tuple(found)
