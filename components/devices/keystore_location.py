"""Where a stack's keystore is, and what can be read there without its passphrase."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pulumi
from pulumi.runtime.rpc import UNKNOWN

from pki import Keystore, KeystoreError
from pki.certificate import fingerprint, parse_certificate
from pki.contents import AUTHORITY_STEMS
from pki.files import is_folder, look_into


@dataclass(frozen=True)
class KeystoreLocation:
    """The keystore's path on the operator's machine, the stack it belongs to, and its passphrase."""

    path: str
    stack: str
    passphrase: pulumi.Output[str]

    def read_off(self, props: dict[str, pulumi.Input[Any]]) -> dict[str, pulumi.Input[Any]]:
        """Return properties read from the keystore; unknown in a preview on a machine that does not have it.

        Such a preview then shows the same as one with the keystore, and its plan fits a `pulumi up` that has
        it.
        """
        away = pulumi.runtime.is_dry_run() and not is_folder(Path(self.path))
        return dict.fromkeys(props, UNKNOWN) if away else props

    def props(self) -> dict[str, pulumi.Input[Any]]:
        """Return the location as properties of a dynamic resource."""
        return {**self.props_without_passphrase(), "passphrase": self.passphrase}

    def props_without_passphrase(self) -> dict[str, pulumi.Input[Any]]:
        """Return them for a step that opens no key."""
        return {"keystore": self.path, "stack": self.stack}


def keystore_of(props: Mapping[str, Any]) -> Keystore:
    """Return the keystore that these properties describe."""
    return Keystore(Path(props["keystore"]), props.get("passphrase"), stack=props["stack"])


def authorities_in(keystore: Path) -> tuple[str, ...]:
    """Return the fingerprints of the authorities in a keystore, which need not exist; no key is opened."""
    found = []
    for stem in AUTHORITY_STEMS:
        try:
            content = look_into(keystore / f"{stem}.crt")
            if content is not None:
                found.append(fingerprint(parse_certificate(content)))
        except (OSError, KeystoreError, ValueError):
            continue  # the certificate authority's own step reports the problem
    return tuple(found)
