"""Step 1: the certificate that the edge shows to browsers, from ``tailscale cert``."""

from __future__ import annotations

import hashlib
import json

import pulumi
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from components.remote.remote_script import Server
from components.remote.server_name import domain_of
from components.remote.server_script import ServerScript


class ServerCertificate(ServerScript, module="immich", name="ServerCertificate"):
    """The public certificate for the node's name, kept on the server, the only machine that has its key.

    Pulumi fetches it once; from then on a timer on the server renews it, whether or not anybody runs Pulumi.
    """

    domain: pulumi.Output[str]
    """The node's public name, for example ``immich.tail1234.ts.net``."""
    fingerprint: pulumi.Output[str]
    """SHA-256 of the fetched certificate, lower-case hexadecimal."""

    def __init__(self, name: str, *, server: Server, opts: pulumi.ResourceOptions) -> None:
        super().__init__(name, server, script="certificate", create=server.line("issue"), opts=opts)
        answer = self.stdout.apply(json.loads)
        self.domain = answer.apply(lambda value: domain_of(str(value["domain"])))
        self.fingerprint = answer.apply(lambda value: leaf_fingerprint(value["certificatePem"]))


def leaf_fingerprint(chain_pem: str) -> str:
    """Return the SHA-256 of the first certificate of a PEM chain, lower-case hexadecimal."""
    leaf = x509.load_pem_x509_certificates(chain_pem.encode())[0]
    return hashlib.sha256(leaf.public_bytes(Encoding.DER)).hexdigest()
