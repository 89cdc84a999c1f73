"""Step 5b: let one device in, by the file on the server that carries its fingerprint."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

import pulumi

from components.options import child_of
from components.remote_script import Server, remote_script


class EnrollableCertificate(Protocol):
    """What is let in: a certificate, and the one of before while that counts as well; else empty."""

    @property
    def fingerprint(self) -> pulumi.Output[str]:
        """SHA-256 of the certificate."""

    @property
    def not_after(self) -> pulumi.Output[str]:
        """The end of its validity, ISO 8601."""

    @property
    def previous_fingerprint(self) -> pulumi.Output[str]:
        """SHA-256 of the certificate of before."""

    @property
    def previous_until(self) -> pulumi.Output[str]:
        """Until when that counts, ISO 8601."""


def enrol_line(
    server: Server,
    device: str,
    fingerprint: str,
    not_after: str,
    previous: str | None,
    previous_until: str | None,
) -> str:
    """Return the command that enrols a device's certificate and, in its grace, the one of before.

    Moments come as ISO 8601 and go as seconds since 1970.
    """
    words: list[str | int] = [device, fingerprint, _seconds(not_after)]
    if previous and previous_until:
        words += [previous, _seconds(previous_until)]
    return server.line("enrol", *words)


def _seconds(moment: str) -> int:
    return int(datetime.fromisoformat(moment).timestamp())


class DeviceEnrolment(pulumi.ComponentResource):
    """The device's place on the server's allow-list.

    Creating or removing the file takes effect at the next request: no rebuild, no reload. When the
    certificate changes, the new file is there before the old one goes, and the old one stays for its grace.
    Each file says when its certificate stops counting: then the server removes it by itself.
    """

    def __init__(
        self,
        name: str,
        *,
        server: Server,
        device: str,
        certificate: EnrollableCertificate,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("immich-exposure:index:DeviceEnrolment", name, {}, opts)
        self.command = remote_script(
            f"{name}-file",
            server,
            script="devices",
            create=pulumi.Output.all(
                certificate.fingerprint,
                certificate.not_after,
                certificate.previous_fingerprint,
                certificate.previous_until,
            ).apply(lambda values: enrol_line(server, device, *values)),
            delete=server.line("withdraw", device),
            opts=child_of(self, opts),
        )
        self.register_outputs({"fingerprint": certificate.fingerprint})
