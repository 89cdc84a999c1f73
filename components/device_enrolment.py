"""Step 5b: let one device in, by the file on the server that carries its fingerprint."""

from __future__ import annotations

import pulumi

from components.client_certificate import ClientCertificate
from components.options import child_of
from components.remote_script import Server, remote_script, sudo_line


class DeviceEnrolment(pulumi.ComponentResource):
    """The device's place on the server's allow-list.

    Creating or removing the file takes effect at the next request: no rebuild, no reload. When the
    certificate changes, the new file is there before the old one goes.
    """

    def __init__(
        self,
        name: str,
        *,
        server: Server,
        device: str,
        certificate: ClientCertificate,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("immich-exposure:index:DeviceEnrolment", name, {}, opts)
        self.command = remote_script(
            f"{name}-file",
            server,
            script="devices",
            create=certificate.fingerprint.apply(lambda value: sudo_line("enrol", device, value)),
            delete=sudo_line("withdraw", device),
            opts=child_of(self, opts),
        )
        self.register_outputs({"fingerprint": certificate.fingerprint})
