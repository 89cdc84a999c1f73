"""Step 5b: the devices that may come in, by the files on the server that carry their fingerprints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

import pulumi
from pulumi.dynamic import CreateResult, DiffResult, ResourceProvider, UpdateResult

from components.devices.keystore_location import KeystoreLocation
from components.devices.report import DeviceReport, for_good, known_revocations, report_of, tell_keystore
from components.engine.operator_error import without_traceback
from components.engine.step import Step
from components.remote.remote_script import PayloadFile, Server, script_digest, script_text
from components.remote.server_props import server_of, server_props
from components.remote.ssh import run_script, tell
from pki import Revocation
from pki.revocations import united

FRAME = "frame"
"""In place of the end of a certificate: this is a frame, which shows a secret and has none."""

REASONS = ("devices", "text", "putRight")
OUTPUTS = ("revoked", "out")


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


class _Provider(ResourceProvider):
    serialize_as_secret_always = False  # it captures nothing

    @without_traceback
    def create(self, props: dict[str, Any]) -> CreateResult:
        return CreateResult("devices", enrol(props, ()))

    def diff(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> DiffResult:
        inputs = {*_olds, *_news}.difference(OUTPUTS)
        return DiffResult(changes=any(_olds.get(key) != _news.get(key) for key in inputs))

    @without_traceback
    def update(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> UpdateResult:
        if all(_olds.get(key) == _news.get(key) for key in REASONS):
            return UpdateResult({**_news, **{key: _olds[key] for key in OUTPUTS}})
        return UpdateResult(enrol(_news, [revocation_of(each) for each in _olds["revoked"]]))

    @without_traceback
    def delete(self, _id: str, _props: dict[str, Any]) -> None:
        """Take them all away, and revoke none: after `pulumi destroy` who is named again gets in again.

        But for those that were revoked on the server and of which no ``up`` has heard: the keystore learns it
        now, because the server and the state are about to forget.
        """
        server = server_of(_props)
        line = server.way_back(server.line("clear"))
        answer = run_script(server, line, script_text("devices"), tell=tell)
        if answer.strip():  # nothing comes of a server that is another stack's by now
            tell_keystore(_props, for_good(report_of(answer).revoked, list(_props["devices"])))


def enrol(props: dict[str, Any], revoked: Sequence[Revocation]) -> dict[str, Any]:
    """Make the server's devices equal the list, and return the outputs of the resource.

    ``revoked`` is what the state knows to be revoked. State, keystore and server learn it from each other, so
    that one that is restored from a backup lets nobody in again.

    Raises ``SshError``, also with the script's own last sentence, ``KeystoreError`` and ``OperatorError``.
    """
    names = list(props["devices"])
    before = united(known_revocations(props).values(), revoked)
    payload = (
        PayloadFile("devices", "".join(device_lines(props["devices"]))),
        PayloadFile("revoked", "".join(map(_line, before.values()))),
    )
    server = server_of(props)
    answer = run_script(server, server.line("install"), script_text("devices", payload), tell=tell)
    report = report_of(answer)
    after = united(before.values(), for_good(report.revoked, names))
    tell_keystore(props, list(after.values()))
    return {
        **props,
        "revoked": [vars(each) for each in after.values()],
        "out": list(out(props["devices"], report, after)),
    }


def device_lines(devices: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    """Yield `FINGERPRINT UNTIL|frame NAME`, seconds since 1970, for all that counts."""
    for name, certificate in devices.items():
        until = certificate["until"]
        end = FRAME if until == FRAME else _seconds(until)
        yield f"{certificate['fingerprint']} {end} {name}\n"
        if certificate.get("before") and certificate.get("beforeUntil"):
            yield f"{certificate['before']} {_seconds(certificate['beforeUntil'])} {name}\n"


def revocation_of(props: Mapping[str, Any]) -> Revocation:
    """Return what the state has kept; numbers come back from the engine as floats."""
    return Revocation(props["fingerprint"], props["name"], int(props["since"]), props["by_hand"])


def _line(revocation: Revocation) -> str:
    how = "hand" if revocation.by_hand else "up"
    return f"{revocation.fingerprint} {revocation.since} {how} {revocation.name}\n"


def _seconds(moment: str) -> int:
    return int(datetime.fromisoformat(moment).timestamp())


def out(
    devices: Mapping[str, Mapping[str, str]], report: DeviceReport, revoked: Mapping[str, Revocation]
) -> Iterator[str]:
    """Yield a sentence for each device that is named and not let in by its present certificate."""
    for name, certificate in devices.items():
        revocation = revoked.get(certificate["fingerprint"])
        if revocation is None or certificate["fingerprint"] not in report.refused:
            continue
        is_frame = certificate["until"] == FRAME
        if revocation.by_hand:
            where, what = ("frames", "secret") if is_frame else ("devices", "certificate")
            yield (
                f"{name} was revoked on the server on {revocation.day} and stays out. Write `revoked: true` "
                f"beside it, or take it out of `{where}`; named again after that `pulumi up`, it gets a new "
                f"{what}."
            )
        elif is_frame:
            yield (
                f"The secret of {name} was revoked on {revocation.day} and never counts again, so {name} is "
                "out. Run pulumi up again: it gets a new one."
            )
        else:
            yield (
                f"The certificate of {name} was revoked on {revocation.day} and never counts again, so "
                f"{name} is out. If it is one of `devices`, run pulumi up again: it gets a new certificate. "
                "If it is one of `adopt.devices`, take it out there and name it in `devices`."
            )


class DeviceList(Step, module="immich", name="DeviceList"):
    """All devices that may come in, in one step however many there are; no other device does.

    Making or removing a device's file takes effect at the next request: no rebuild, no reload. When a
    certificate changes, the new file is there before the old one goes, and the old one stays for its grace.
    Each file says when its certificate stops counting: then the server removes it by itself.
    """

    out: pulumi.Output[list[str]]

    def __init__(
        self,
        name: str,
        *,
        server: Server,
        keystore: KeystoreLocation,
        certificates: Mapping[str, EnrollableCertificate],
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        props: dict[str, pulumi.Input[Any]] = {
            **server_props(server),
            "keystore": keystore.path,
            "owner": keystore.stack,
            "text": script_digest("devices"),
            # Each by its name, so that a preview shows who comes and who goes.
            "devices": {device: _props(certificate) for device, certificate in certificates.items()},
        }
        super().__init__(_Provider(), name, {**props, **dict.fromkeys(OUTPUTS)}, opts)
        self.out.apply(_warn)


def _props(certificate: EnrollableCertificate) -> dict[str, pulumi.Input[str]]:
    return {
        "fingerprint": certificate.fingerprint,
        "until": certificate.not_after,
        "before": certificate.previous_fingerprint,
        "beforeUntil": certificate.previous_until,
    }


def _warn(sentences: list[str] | None) -> None:
    for sentence in sentences or ():
        pulumi.warn(sentence)
