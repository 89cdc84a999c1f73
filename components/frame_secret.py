"""A frame's secret, sent in a header instead of a device's certificate."""

from __future__ import annotations

from typing import Any

import pulumi
from pulumi.dynamic import CreateResult, DiffResult, UpdateResult

from components.certificate_authority import CertificateAuthority
from components.device_list import FRAME
from components.devices.keystore_location import KeystoreLocation, keystore_of
from components.engine.operator_error import without_traceback
from components.engine.step import Step, StepProvider, differs

OUTPUTS = ("fingerprint", "secret")


class _Provider(StepProvider):
    @without_traceback
    def create(self, props: dict[str, Any]) -> CreateResult:
        outputs = _adopt_or_make(props)
        return CreateResult(outputs["fingerprint"], outputs)

    def diff(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> DiffResult:
        # A new authority or passphrase does not change a secret.
        return DiffResult(changes=differs(_olds, _news, "authority", "passphrase", *OUTPUTS))

    @without_traceback
    def update(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> UpdateResult:
        return UpdateResult(_adopt_or_make(_news))

    @without_traceback
    def delete(self, _id: str, _props: dict[str, Any]) -> None:
        """Revoke the frame. The engine calls this only if it left the config: see ``deleted_with``."""
        keystore_of(_props).revoke_frame(_props["frame"], _props["fingerprint"])


def _adopt_or_make(props: dict[str, Any]) -> dict[str, Any]:
    made = keystore_of(props).adopt_or_make_frame(props["frame"])
    return {**props, "fingerprint": made.fingerprint, "secret": made.secret}


class FrameSecret(Step, module="immich", name="FrameSecret"):
    """A frame's secret in the keystore. The device list treats it as a certificate that never expires."""

    fingerprint: pulumi.Output[str]
    """SHA-256 of the secret, lower-case hexadecimal: the frame's file name on the server."""
    secret: pulumi.Output[str]
    """What the frame sends; a secret."""

    def __init__(
        self,
        name: str,
        *,
        keystore: KeystoreLocation,
        authority: CertificateAuthority,
        frame: str,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        props = {**keystore.props(), "authority": authority.fingerprint, "frame": frame}
        # As with a device's certificate, deleting means revoking, which `pulumi destroy` must not do.
        with_authority = pulumi.ResourceOptions(deleted_with=authority, additional_secret_outputs=["secret"])
        options = pulumi.ResourceOptions.merge(opts, with_authority)
        super().__init__(_Provider(), name, {**props, **dict.fromkeys(OUTPUTS)}, options)

    @property
    def not_after(self) -> pulumi.Output[str]:
        """The word that marks a frame, instead of an expiry."""
        return pulumi.Output.from_input(FRAME)

    @property
    def previous_fingerprint(self) -> pulumi.Output[str]:
        """Empty: a frame has one secret."""
        return pulumi.Output.from_input("")

    @property
    def previous_until(self) -> pulumi.Output[str]:
        """Empty: see ``previous_fingerprint``."""
        return pulumi.Output.from_input("")
