"""Steps 3 and 4: one client certificate per device, and what its owner installs."""

from __future__ import annotations

from typing import Any

import pulumi
from pulumi.dynamic import CreateResult, DiffResult, UpdateResult

from components.certificate_authority import CertificateAuthority
from components.devices.keystore_location import KeystoreLocation, keystore_of
from components.devices.renewal import renewing_diff
from components.engine.operator_error import without_traceback
from components.engine.props import from_props, props_of
from components.engine.step import Step, StepProvider
from pki import DeviceProfile, Renewal
from pki.renewal_plan import device_expiries


class _Provider(StepProvider):
    @without_traceback
    def create(self, props: dict[str, Any]) -> CreateResult:
        outputs = _adopt_or_issue(props)
        return CreateResult(outputs["fingerprint"], outputs)

    def diff(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> DiffResult:
        # A new authority alone changes nothing: the device moves to it with its next renewal.
        return renewing_diff(
            _olds,
            _news,
            expiries=lambda keystore: device_expiries(keystore, _news["device"]),
            ignore={"authority"},
        )

    @without_traceback
    def update(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> UpdateResult:
        return UpdateResult(_adopt_or_issue(_news))

    @without_traceback
    def delete(self, _id: str, _props: dict[str, Any]) -> None:
        """Revoke the device. The engine calls this only if it left the config: see ``deleted_with``."""
        keystore_of(_props).revoke_device(_props["device"], _props["fingerprint"])


def _adopt_or_issue(props: dict[str, Any]) -> dict[str, Any]:
    credential = keystore_of(props).adopt_or_issue_device(
        props["device"], from_props(DeviceProfile, props), from_props(Renewal, props)
    )
    previous = credential.previous
    return {
        **props,
        "fingerprint": credential.fingerprint,
        "notAfter": credential.not_after.isoformat(),
        "bundlePath": str(credential.bundle_path),
        "bundlePassword": credential.bundle_password,
        "previousFingerprint": previous.fingerprint if previous else "",
        "previousUntil": previous.until.isoformat() if previous else "",
    }


OUTPUTS = (
    "fingerprint",
    "notAfter",
    "bundlePath",
    "bundlePassword",
    "previousFingerprint",
    "previousUntil",
)


class ClientCertificate(Step, module="immich", name="ClientCertificate"):
    """A device's key, certificate and PKCS#12 bundle in the keystore."""

    fingerprint: pulumi.Output[str]
    """SHA-256 of the certificate's DER form, lower-case hexadecimal: the device's file name on the server."""
    notAfter: pulumi.Output[str]
    bundlePath: pulumi.Output[str]
    bundlePassword: pulumi.Output[str]
    previousFingerprint: pulumi.Output[str]
    previousUntil: pulumi.Output[str]

    def __init__(
        self,
        name: str,
        *,
        keystore: KeystoreLocation,
        authority: CertificateAuthority,
        device: str,
        profile: DeviceProfile,
        renewal: Renewal,
        due: str,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        props = {
            **keystore.props(),
            "authority": authority.fingerprint,
            "device": device,
            **props_of(profile),
            **props_of(renewal),
            **keystore.read_off({"renewal": due}),
        }
        # Deleting means revoking. If the authority is deleted in the same run, the run is `pulumi destroy`,
        # which closes the funnel but must not force anybody to reinstall a certificate: then `deleted_with`
        # skips delete.
        with_authority = pulumi.ResourceOptions(
            deleted_with=authority, additional_secret_outputs=["bundlePassword"]
        )
        options = pulumi.ResourceOptions.merge(opts, with_authority)
        super().__init__(_Provider(), name, {**props, **dict.fromkeys(OUTPUTS)}, options)

    @property
    def not_after(self) -> pulumi.Output[str]:
        """When the certificate expires, ISO 8601 in UTC."""
        return self.notAfter

    @property
    def bundle_path(self) -> pulumi.Output[str]:
        """The PKCS#12 file to install on the device."""
        return self.bundlePath

    @property
    def bundle_password(self) -> pulumi.Output[str]:
        """The bundle's import password; a secret."""
        return pulumi.Output.secret(self.bundlePassword)

    @property
    def previous_fingerprint(self) -> pulumi.Output[str]:
        """Fingerprint of the previous certificate while it is accepted alongside the new one; else empty."""
        return self.previousFingerprint

    @property
    def previous_until(self) -> pulumi.Output[str]:
        """When the previous certificate stops being accepted, ISO 8601 in UTC; else empty."""
        return self.previousUntil
