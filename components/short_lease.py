"""Puts an open funnel on a short lease before anything behind it changes; only a proof extends it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import pulumi

from components.certificate_authority import CertificateAuthority
from components.config.stack_config import ExposureConfig
from components.device_list import EnrollableCertificate
from components.engine.options import child_of
from components.exposure_check import exposed_digest, how_it_is_asked
from components.funnel import LEASE_SECONDS
from components.nixos_configuration import what_is_rebuilt
from components.remote.remote_script import Server
from components.remote.server_script import ServerScript


class ShortLease(pulumi.ComponentResource):
    """What runs first on the server if anything that answers a visitor is about to change.

    If the run dies from here on, the funnel closes when the lease ends, and the server's own command does not
    reopen it. A closed funnel stays closed.
    """

    begun: pulumi.Output[str]
    """What the server said: a different text each time, so that the check runs after each."""

    def __init__(
        self,
        name: str,
        *,
        server: Server,
        config: ExposureConfig,
        authority: CertificateAuthority,
        devices: Mapping[str, EnrollableCertificate],
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("immich-exposure:index:ShortLease", name, {}, opts)

        def line(digest: str) -> str:
            another = "yes" if config.take_over else "no"
            return server.line("trial", config.funnel_port, config.proxy_port, LEASE_SECONDS, another, digest)

        trial = ServerScript(
            f"{name}-trial",
            server,
            script="funnel",
            create=_all_that_answers(config, authority, devices).apply(line),
            opts=child_of(self, opts),
        )
        self.begun = trial.stdout
        self.register_outputs({"begun": self.begun})


def _all_that_answers(
    config: ExposureConfig, authority: CertificateAuthority, devices: Mapping[str, EnrollableCertificate]
) -> pulumi.Output[str]:
    """Return a digest of everything a visitor or a device meets, and of how it is proven.

    It covers what is rebuilt, because a rebuild may bring more than the module, such as a permitted upgrade.
    It covers how the exposure is proven, so that a failed check runs again once its cause is fixed.
    """
    known = f"{exposed_digest(config)} {what_is_rebuilt(config)} {how_it_is_asked(config)}"
    devices_known = [_words(name, device) for name, device in sorted(devices.items())]
    return pulumi.Output.all(authority.trusted.apply(",".join), *devices_known).apply(
        lambda texts: hashlib.sha256("\n".join([known, *texts]).encode()).hexdigest()[:16]
    )


def _words(name: str, device: EnrollableCertificate) -> pulumi.Output[str]:
    return pulumi.Output.concat(
        name, " ", device.fingerprint, " ", device.not_after, " ", device.previous_fingerprint
    )
