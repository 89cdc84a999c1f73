"""Puts an open funnel on a short lease before anything behind it changes; only a proof extends it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import pulumi

from components.certificate_authority import CertificateAuthority
from components.config.stack_config import ExposureConfig
from components.device_list import EnrollableCertificate
from components.exposure_check import exposed_digest, how_it_is_asked
from components.funnel import LEASE_SECONDS
from components.nixos_configuration import what_is_rebuilt
from components.remote.remote_script import Server
from components.remote.server_script import ServerScript


class ShortLease(ServerScript, module="immich", name="ShortLease"):
    """What runs first on the server if anything that answers a visitor is about to change.

    If the run dies from here on, the funnel closes when the lease ends, and the server's own command does not
    reopen it. A closed funnel stays closed.
    """

    def __init__(
        self,
        name: str,
        *,
        server: Server,
        config: ExposureConfig,
        authority: CertificateAuthority,
        devices: Mapping[str, EnrollableCertificate],
        opts: pulumi.ResourceOptions,
    ) -> None:
        def line(digest: str) -> str:
            another = "yes" if config.take_over else "no"
            return server.line("trial", config.funnel_port, config.proxy_port, LEASE_SECONDS, another, digest)

        super().__init__(
            name,
            server,
            script="funnel",
            create=_all_that_answers(config, authority, devices).apply(line),
            opts=opts,
        )

    @property
    def begun(self) -> pulumi.Output[str]:
        """What the server said: a different text each time, so that the check runs after each."""
        return self.stdout


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
