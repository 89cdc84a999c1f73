"""Step 2b: what the server receives of the certificate authority: its certificate and nothing else."""

from __future__ import annotations

import pulumi

from components.certificate_authority import CertificateAuthority
from components.remote.remote_script import PayloadFile, Server
from components.remote.server_script import ServerScript


class TrustPool(ServerScript, module="immich", name="TrustPool"):
    """The certificates of the trusted authorities; the edge reloads when they change."""

    def __init__(
        self, name: str, *, server: Server, authority: CertificateAuthority, opts: pulumi.ResourceOptions
    ) -> None:
        super().__init__(
            name,
            server,
            script="trust",
            create=server.line("install"),
            payload=authority.trusted_pem.apply(lambda pem: (PayloadFile("device-ca.crt", pem),)),
            opts=opts,
        )
