"""Where the keystore of a stack is, and what can be read there without its passphrase."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pulumi

from pki import Keystore
from pki.certificate import fingerprint, parse_certificate
from pki.contents import AUTHORITY_STEMS


@dataclass(frozen=True)
class KeystoreLocation:
    """Where the keys lie on the operator's machine, whose they are, and the secret that encrypts them."""

    path: str
    stack: str
    passphrase: pulumi.Output[str]

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
