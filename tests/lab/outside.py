"""What somebody outside sees, as one short word or status, the way the demo prints it."""

from __future__ import annotations

import json
from collections.abc import Mapping

from lab import Lab, Refused, Reply
from pki import ProbeCredential

FORBIDDEN = '403 {"status":403}'
REFUSED = "refused"


def summary(reply: Reply) -> str:
    """Return the status, and for a refusal of the edge that its body says so, too."""
    if reply.status != 403:
        return str(reply.status)
    try:
        answer = json.loads(reply.body)
    except ValueError:
        return "403 without JSON"
    return FORBIDDEN if answer.get("status") == 403 else f"403 {answer}"


def seen(
    lab: Lab,
    path: str,
    *,
    credential: ProbeCredential | None = None,
    passphrase: str | None = None,
    source: str = "203.0.113.7",
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    data: bytes | None = None,
) -> str:
    """Visit through the ingress and return what was seen; ``refused`` when no HTTP answer came."""
    try:
        reply = lab.visit(
            path,
            source=source,
            method=method,
            headers=headers,
            data=data,
            cert=credential.certificate_path if credential else None,
            key=credential.key_path if credential else None,
            passphrase=passphrase if credential else None,
        )
    except Refused:
        return REFUSED
    return summary(reply)
