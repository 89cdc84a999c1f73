"""The lab: a NixOS-like server and Tailscale's server side, booted on this machine in seconds.

Stand-ins, each in one place: nixos-rebuild and its modules (lab/nixos), Tailscale's control server, ingress
and the certificate authority (lab/internet), Immich (lab/stub). Everything else on the server is the real
program.
"""

from lab.errors import LabError
from lab.lab import Lab
from lab.visit import Refused, Reply

__all__ = ["Lab", "LabError", "Refused", "Reply"]
