"""The house `by-hand`: its exposure was set up by hand, with an authority made with openssl and phones in
use.
"""

from __future__ import annotations

from typing import Any

from lab.places import Places
from pki import ProbeCredential

CA = "server:/var/lib/certs/ca-cert.pem"
CA_KEY = "server:/mnt/immich_drive/secrets/ca-key.pem"
PHONES = ("anna", "ben")


def phone_of_before(name: str) -> ProbeCredential:
    """A phone with the certificate that its owner was given back then."""
    folder = Places.of_this_clone().phones
    return ProbeCredential(name, folder / f"{name}.crt", folder / f"{name}.key")


def taken_over(*names: str, **changes: Any) -> dict[str, Any]:
    """The setting `adopt` that takes over the authority and these phones."""
    devices = [{"certificate": str(phone_of_before(name).certificate_path)} for name in names]
    return {"caCertificate": CA, "caKey": CA_KEY, "devices": devices, **changes}
