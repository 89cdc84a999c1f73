"""Step 5b: the enrolled devices, as files on the server named by their fingerprints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Protocol

import pulumi
from pulumi.dynamic import CreateResult, DiffResult, UpdateResult

from components.devices.keystore_location import KeystoreLocation
from components.devices.let_in import revocation_sentence
from components.devices.report import DeviceReport, for_good, known_revocations, report_of, tell_keystore
from components.engine.operator_error import without_traceback
from components.engine.props import from_props, props_of
from components.engine.step import Step, StepProvider, differs, warn_each
from components.remote.remote_script import PayloadFile, Server, script_digest, script_text
from components.remote.ssh import run_script, tell
from pki import Revocation
from pki.revocations import united

FRAME = "frame"
"""Replaces the expiry of a certificate: marks a frame, which has a secret and no certificate."""

REASONS = ("devices", "text", "repaired")
OUTPUTS = ("revoked", "out")


class EnrollableCertificate(Protocol):
    """A certificate to enrol, and the previous one while it is still accepted; else empty."""

    @property
    def fingerprint(self) -> pulumi.Output[str]:
        """SHA-256 of the certificate."""

    @property
    def not_after(self) -> pulumi.Output[str]:
        """When the certificate expires, ISO 8601; ``FRAME`` for a frame."""

    @property
    def previous_fingerprint(self) -> pulumi.Output[str]:
        """SHA-256 of the previous certificate."""

    @property
    def previous_until(self) -> pulumi.Output[str]:
        """When the previous certificate stops being accepted, ISO 8601."""


class _Provider(StepProvider):
    @without_traceback
    def create(self, props: dict[str, Any]) -> CreateResult:
        return CreateResult("devices", enrol(props, ()))

    def diff(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> DiffResult:
        return DiffResult(changes=differs(_olds, _news, *OUTPUTS))

    @without_traceback
    def update(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> UpdateResult:
        if all(_olds.get(key) == _news.get(key) for key in REASONS):
            return UpdateResult({**_news, **{key: _olds[key] for key in OUTPUTS}})
        return UpdateResult(enrol(_news, [from_props(Revocation, each) for each in _olds["revoked"]]))

    @without_traceback
    def delete(self, _id: str, _props: dict[str, Any]) -> None:
        """Remove all devices, revoking none: after `pulumi destroy`, a device that is named again gets in.

        The exception is devices revoked on the server since the last ``up``: the keystore records them now,
        because the server and the state are about to forget them.
        """
        server = from_props(Server, _props)
        line = server.way_back(server.line("clear"))
        answer = run_script(server, line, script_text("devices"), tell=tell)
        if answer.strip():  # the answer is empty if the server now belongs to another stack
            tell_keystore(_props, for_good(report_of(answer).revoked, list(_props["devices"])))


def enrol(props: dict[str, Any], revoked: Sequence[Revocation]) -> dict[str, Any]:
    """Make the server's devices equal the list, and return the outputs of the resource.

    ``revoked`` holds the revocations in the state. State, keystore and server exchange their revocations, so
    that restoring any one of them from a backup lets nobody in again.

    Raises ``SshError``, also with the script's own last sentence, ``KeystoreError`` and ``OperatorError``.
    """
    names = list(props["devices"])
    before = united(known_revocations(props).values(), revoked)
    payload = (
        PayloadFile("devices", "".join(device_lines(props["devices"]))),
        PayloadFile("revoked", "".join(map(_line, before.values()))),
    )
    server = from_props(Server, props)
    answer = run_script(server, server.line("install"), script_text("devices", payload), tell=tell)
    report = report_of(answer)
    after = united(before.values(), for_good(report.revoked, names))
    tell_keystore(props, list(after.values()))
    return {
        **props,
        "revoked": [props_of(each) for each in after.values()],
        "out": list(out(props["devices"], report, after)),
    }


def device_lines(devices: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    """Yield `FINGERPRINT UNTIL|frame NAME`, in seconds since 1970, for everything that is accepted."""
    for name, certificate in devices.items():
        until = certificate["until"]
        end = FRAME if until == FRAME else _seconds(until)
        yield f"{certificate['fingerprint']} {end} {name}\n"
        if certificate.get("before") and certificate.get("beforeUntil"):
            yield f"{certificate['before']} {_seconds(certificate['beforeUntil'])} {name}\n"


def _line(revocation: Revocation) -> str:
    how = "hand" if revocation.by_hand else "up"
    return f"{revocation.fingerprint} {revocation.since} {how} {revocation.name}\n"


def _seconds(moment: str) -> int:
    return int(datetime.fromisoformat(moment).timestamp())


def out(
    devices: Mapping[str, Mapping[str, str]], report: DeviceReport, revoked: Mapping[str, Revocation]
) -> Iterator[str]:
    """Yield a sentence for each named device whose present certificate or secret is refused."""
    for name, certificate in devices.items():
        revocation = revoked.get(certificate["fingerprint"])
        if revocation is None or certificate["fingerprint"] not in report.refused:
            continue
        is_frame = certificate["until"] == FRAME
        if revocation.by_hand:
            yield revocation_sentence(replace(revocation, name=name))
        elif is_frame:
            yield (
                f"The secret of {name} was revoked on {revocation.day} and is never accepted again, so "
                f"{name} has no access. Run pulumi up again: it gets a new one."
            )
        else:
            yield (
                f"The certificate of {name} was revoked on {revocation.day} and is never accepted again, so "
                f"{name} has no access. If it is one of `devices`, run pulumi up again: it gets a new "
                "certificate. If it is one of `adopt.devices`, remove it there and name it in `devices`."
            )


class DeviceList(Step, module="immich", name="DeviceList"):
    """All enrolled devices, in one step regardless of their number; no other device gets in.

    Creating or removing a device's file takes effect at the next request: no rebuild, no reload. When a
    certificate changes, the new file is created before the old one is removed, and the old one stays for its
    grace period. Each file states when its certificate stops being accepted; the server then removes it.
    """

    out: pulumi.Output[list[str]]

    def __init__(
        self,
        name: str,
        *,
        server: Server,
        keystore: KeystoreLocation,
        certificates: Mapping[str, EnrollableCertificate],
        already_given: pulumi.Output[list[str]],
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        """``already_given`` holds the warnings that this run has already given."""
        props: dict[str, pulumi.Input[Any]] = {
            **props_of(server),
            **keystore.props_without_passphrase(),
            "text": script_digest("devices"),
            # Keyed by name, so that a preview shows which devices are added and removed.
            "devices": {device: _props(certificate) for device, certificate in certificates.items()},
        }
        super().__init__(_Provider(), name, {**props, **dict.fromkeys(OUTPUTS)}, opts)
        pulumi.Output.all(out=self.out, given=already_given).apply(
            lambda known: warn_each(each for each in known["out"] or () if each not in known["given"])
        )


def _props(certificate: EnrollableCertificate) -> dict[str, pulumi.Input[str]]:
    return {
        "fingerprint": certificate.fingerprint,
        "until": certificate.not_after,
        "before": certificate.previous_fingerprint,
        "beforeUntil": certificate.previous_until,
    }
