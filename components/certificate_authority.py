"""Step 2: the private certificate authority that issues the devices' certificates."""

from __future__ import annotations

import os
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import pulumi
from pulumi.dynamic import CreateResult, DiffResult, UpdateResult

from components.devices.keystore_location import KeystoreLocation, authorities_in, keystore_of
from components.devices.renewal import renewing_diff, was_looked_into
from components.engine.operator_error import OperatorError, without_traceback
from components.engine.props import from_props, props_of
from components.engine.step import Step, StepProvider
from pki import AuthorityProfile, KeystoreError, Renewal
from pki.files import look_into
from pki.renewal_plan import authority_expiries


class _Provider(StepProvider):
    @without_traceback
    def create(self, props: dict[str, Any]) -> CreateResult:
        outputs = _adopt_or_create(props)
        _revoke_strays(props)
        return CreateResult(outputs["fingerprint"], outputs)

    def diff(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> DiffResult:
        trusted = _olds.get("trusted") or ()
        if was_looked_into(_news) and is_foreign(trusted, authorities_in(Path(_news["keystore"]))):
            return DiffResult(changes=True)  # the update refuses it
        if _key_file(_news["keystore"]) not in ("", _olds.get("keyFile")):
            return DiffResult(changes=True)  # perhaps with a passphrase other than the stack's
        return renewing_diff(_olds, _news, expiries=authority_expiries, ignore={"devices"})

    @without_traceback
    def update(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> UpdateResult:
        refuse_foreign(_olds.get("trusted") or (), _news["keystore"])
        return UpdateResult(_adopt_or_create(_news))

    @without_traceback
    def delete(self, _id: str, _props: dict[str, Any]) -> None:
        if _props["purgeKeystore"]:
            keystore_of(_props).purge()


def _key_file(keystore: str) -> str:
    """Return the SHA-256 of the encrypted key file in the keystore; empty if there is none."""
    try:
        content = look_into(Path(keystore) / "ca.key")
    except (OSError, KeystoreError):
        return "cannot be read"  # the keystore itself reports the reason
    return "" if content is None else sha256(content).hexdigest()


def is_foreign(known: Sequence[str], found: Sequence[str]) -> bool:
    """Tell whether a keystore holds none of the state's authorities."""
    return bool(known) and not set(known) & set(found)


def refuse_foreign(known: Sequence[str], keystore: str) -> None:
    """Refuse a keystore that is missing, empty or foreign while the state has devices.

    A newly created authority would shut all of them out.

    Raises ``OperatorError``.
    """
    found = authorities_in(Path(keystore))
    damaged = not found and os.path.exists(Path(keystore) / "ca.crt")  # the keystore itself reports it
    if damaged or not is_foreign(known, found):
        return
    what = f"holds another authority ({found[-1][:16]})" if found else "has no authority"
    raise OperatorError(
        f"The keystore {keystore} {what}, and this stack's devices have certificates of {known[-1][:16]}, so "
        "they would all lose access. Is its drive not mounted, or was the stack renamed? Set `keystore` to "
        "its folder, or import a backup. If it is lost for good, run pulumi destroy and then "
        "pulumi up: every device then needs a new bundle."
    )


def _adopt_or_create(props: dict[str, Any]) -> dict[str, Any]:
    keystore = keystore_of(props)
    authority = keystore.adopt_or_create_authority(
        from_props(AuthorityProfile, props), from_props(Renewal, props)
    )
    trusted = keystore.trusted()
    return {
        **props,
        "certificatePem": authority.certificate_pem,
        "fingerprint": authority.fingerprint,
        "notAfter": authority.not_after.isoformat(),
        "trustedPem": "".join(each.certificate_pem for each in trusted),
        "trusted": [each.fingerprint for each in trusted],
        "keyFile": _key_file(props["keystore"]),
    }


def _revoke_strays(props: dict[str, Any]) -> None:
    """Revoke what the keystore still holds for devices removed from the config while nothing was exposed.

    Otherwise a new phone given the name of a lost one would adopt the lost phone's certificate.
    """
    keystore_of(props).revoke_all_but(props["devices"])


OUTPUTS = ("certificatePem", "fingerprint", "notAfter", "trustedPem", "trusted", "keyFile")


class CertificateAuthority(Step, module="immich", name="CertificateAuthority"):
    """The private CA in the keystore: adopted if it exists, created if it does not, never overwritten.

    A second authority takes over before the first expires; both are trusted until every device has moved.
    """

    certificatePem: pulumi.Output[str]
    fingerprint: pulumi.Output[str]
    """SHA-256 of the certificate's DER form, lower-case hexadecimal."""
    notAfter: pulumi.Output[str]
    trustedPem: pulumi.Output[str]
    trusted: pulumi.Output[list[str]]
    """The fingerprints of the authorities whose devices are accepted; the signing one is last."""

    def __init__(
        self,
        name: str,
        *,
        keystore: KeystoreLocation,
        profile: AuthorityProfile,
        devices: Sequence[str],
        purge_keystore: bool,
        renewal: Renewal,
        due: str,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        props: dict[str, pulumi.Input[Any]] = {
            **keystore.props(),
            **props_of(profile),
            "purgeKeystore": purge_keystore,
            **props_of(renewal),
            **keystore.read_off({"renewal": due}),
            "devices": list(devices),
        }
        # The list matters only at creation. Afterwards each device is its own resource, so that adding or
        # removing one shows as exactly that.
        options = pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(ignore_changes=["devices"]))
        super().__init__(_Provider(), name, {**props, **dict.fromkeys(OUTPUTS)}, options)

    @property
    def certificate_pem(self) -> pulumi.Output[str]:
        """The certificate (PEM) of the signing authority."""
        return self.certificatePem

    @property
    def not_after(self) -> pulumi.Output[str]:
        """When the signing authority expires, ISO 8601 in UTC."""
        return self.notAfter

    @property
    def trusted_pem(self) -> pulumi.Output[str]:
        """The certificates (PEM) of all trusted authorities: all that the server receives of them."""
        return self.trustedPem
