"""Step 7: prove from outside that strangers get a 403 and devices get in; only then stay open."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pulumi
from pulumi.dynamic import CreateResult, UpdateResult

from components.certificate_authority import CertificateAuthority
from components.config.home import ModuleWay
from components.config.stack_config import ExposureConfig
from components.devices.keystore_location import KeystoreLocation, keystore_of
from components.edge_settings import settings_files
from components.engine.operator_error import OperatorError, without_traceback
from components.engine.props import from_props, props_of
from components.engine.step import Step, StepProvider
from components.funnel import LEASE_SECONDS, Funnel
from components.nixos_configuration import configuration_digest
from components.remote.outside_probe import (
    Answer,
    Credential,
    NotReachableError,
    OutsideProbe,
    UnansweredError,
    WrongAnswerError,
)
from components.remote.remote_script import Server, script_digest, script_text
from components.remote.ssh import SshError, run_script, tell

WAIT_FOR_DNS_SECONDS = 480
"""Below the lease, so that the verdict comes before the lease closes the funnel."""

WAIT_FOR_INGRESS_SECONDS = 30
"""With a configured address there is no DNS to wait for."""

RETRY_SECONDS = 2

PROVE_SECONDS = 1800
"""Limit for the whole proof; the server's own waits, for another run's lock and the proof, end far sooner."""

PROVEN = "proven\n"
"""What the server waits for (`funnel.sh prove`)."""

AT_ONCE = 4
"""Requests sent in parallel; a browser sends six (edge: `few_connections`)."""

HUNG_UP = 10
"""How often in a row the edge may hang up after showing its certificate: it may be applying new settings."""


@dataclass(frozen=True)
class Expectation:
    """One request from outside: the path, the required status, and why it matters."""

    path: str
    status: int
    claim: str


ANONYMOUS = (
    Expectation("/", 403, "a stranger sees no login page"),
    Expectation("/api/users/me", 403, "a stranger reaches no private API"),
    Expectation("/api/shared-links/me?key=", 403, "an empty share key opens nothing"),
    Expectation("/api/server/config", 200, "visitors of shared links reach Immich"),
)

DEVICE = Expectation("/api/server/ping", 200, "an enrolled device gets in")


FRAME = Expectation(DEVICE.path, 403, "a secret that no frame has opens nothing")

NOBODYS_SECRET = {"X-Immich-Exposure-Frame": "ixframe_" + 32 * "a"}
"""A secret that no frame ever has; the edge does not count it as an offence (server/caddy/frames.go)."""


def check_from_outside(
    probe: OutsideProbe,
    credentials: list[Credential],
    *,
    wait_seconds: float,
    drops: bool = False,
    frames: bool = False,
) -> list[str]:
    """Send all requests from outside and return one line per proof.

    ``drops``: the edge hangs up instead of answering 403. ``frames``: at least one frame is configured.

    The requests run in parallel, each on its own connection. Devices are tried one after the other until one
    gets in.

    Raises ``NotReachableError`` if nothing answers within ``wait_seconds``, and ``WrongAnswerError`` at the
    first wrong answer, which is never retried.
    """
    first = _wait_until_reachable(probe, wait_seconds)
    with ThreadPoolExecutor(max_workers=AT_ONCE) as pool:
        anonymous = [pool.submit(_ask, probe, expectation.path) for expectation in ANONYMOUS[:-1]]
        frame = pool.submit(_ask, probe, FRAME.path, headers=NOBODYS_SECRET) if frames else None
        device = pool.submit(_some_device_gets_in, probe, credentials, drops) if credentials else None
    answers = [*(asked.result() for asked in anonymous), first]
    lines = [_verify(expected, answer, drops) for expected, answer in zip(ANONYMOUS, answers, strict=True)]
    if frame is not None:
        lines.append(_verify(FRAME, frame.result(), drops))
    if device is not None:
        lines.append(device.result())
    return lines


def _wait_until_reachable(probe: OutsideProbe, wait_seconds: float) -> Answer:
    """Return the answer to the last of ``ANONYMOUS``, which is answered whatever strangers get.

    Raises ``NotReachableError``, and ``WrongAnswerError`` if the edge keeps hanging up, perhaps because this
    machine is banned.
    """
    deadline, hung_up = time.monotonic() + wait_seconds, 0
    while True:
        try:
            return probe.get(ANONYMOUS[-1].path)
        except NotReachableError as error:
            hung_up = hung_up + 1 if isinstance(error, UnansweredError) else 0
            if hung_up > HUNG_UP or hung_up and time.monotonic() > deadline:
                raise WrongAnswerError(
                    f"{error} A visitor who is banned sees this, and this machine's own address may be "
                    "banned: look on the server with `sudo immich-exposure bans ADDRESS`, lift the ban "
                    "(unban) or change banLists, and run this again."
                ) from error
            if time.monotonic() > deadline:
                raise
            time.sleep(RETRY_SECONDS)


def _ask(
    probe: OutsideProbe,
    path: str,
    credential: Credential | None = None,
    headers: Mapping[str, str] | None = None,
) -> Answer | None:
    """Return the answer; None if the edge hangs up."""
    try:
        return probe.get(path, credential) if headers is None else probe.get(path, credential, headers)
    except UnansweredError:
        return None


def _verify(expected: Expectation, answer: Answer | None, drops: bool) -> str:
    if answer is None:
        if drops and expected.status == 403:
            return f"GET {expected.path} no answer: {expected.claim}"
        raise WrongAnswerError(
            f"GET {expected.path} from outside got no answer instead of {expected.status}, which would show "
            f"that {expected.claim}."
        )
    if answer.status != expected.status:
        raise WrongAnswerError(
            f"GET {expected.path} from outside answered {answer.status} instead of {expected.status}, which "
            f"would show that {expected.claim}."
        )
    if expected.status == 403 and not _is_refusal(answer.body):
        raise WrongAnswerError(f"GET {expected.path} from outside answered 403 without our JSON refusal.")
    if "alt-svc" in answer.headers:
        raise WrongAnswerError("The edge offers HTTP/3, which no funnel can carry; update the configuration.")
    return f"GET {expected.path} {answer.status}: {expected.claim}"


def _is_refusal(body: bytes) -> bool:
    try:
        answer = json.loads(body)
    except ValueError:
        return False
    return isinstance(answer, dict) and answer.get("status") == 403


def _some_device_gets_in(probe: OutsideProbe, credentials: Sequence[Credential], drops: bool) -> str:
    """Ask as one device after the other until one gets in: decrypting a key takes a fifth of a second.

    The keystore may hold devices that are not enrolled, and those must be refused.
    """
    seen: list[int | str] = []
    for credential in credentials:
        answer = _ask(probe, DEVICE.path, credential)
        seen.append(answer.status if answer else "nothing")
        if seen[-1] == DEVICE.status:
            return f"GET {DEVICE.path} {DEVICE.status}: {DEVICE.claim}"
        if seen[-1] != ("nothing" if drops else 403):
            break
    raise WrongAnswerError(
        f"GET {DEVICE.path} with the device certificates answered {seen}; at least one 200 is expected: "
        "look at `journalctl -u immich-edge` on the server."
    )


class NoCredentialError(OperatorError):
    """There is no device credential to ask with; the message says what to do."""


class _Provider(StepProvider):
    @without_traceback
    def create(self, props: dict[str, Any]) -> CreateResult:
        return CreateResult("outside-check", check_or_close(props))

    @without_traceback
    def update(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> UpdateResult:
        return UpdateResult(check_or_close(_news))


def check_or_close(props: dict[str, Any]) -> dict[str, Any]:
    """Open on a short lease, check, confirm, and return the outputs; if anything fails, close the funnel.

    This is one conversation with the server: it opens the funnel, waits for the word that everything is
    proven, and closes it at once if that does not come, for example because this machine died.
    """
    server = from_props(Server, props)
    ports = (int(props["funnelPort"]), int(props["proxyPort"]))
    lines: list[str] = []
    try:
        credentials, probe = _credentials(props), _probe(props)
        with ThreadPoolExecutor(max_workers=1) as meanwhile:
            prepared = meanwhile.submit(probe.prepare, credentials[:1])

            def proof() -> str:
                prepared.result()
                lines.extend(
                    check_from_outside(
                        probe,
                        credentials,
                        wait_seconds=_wait_seconds(props),
                        drops=props["rejectWith"] == "drop",
                        frames=bool(props.get("frames")),
                    )
                )
                return PROVEN

            line = server.line(
                "prove", *ports, LEASE_SECONDS, props["until"], props["configDir"], props["edge"]
            )
            text = script_text("funnel")
            run_script(server, line, text, timeout_seconds=PROVE_SECONDS, tell=tell, reply=proof)
    except BaseException as error:
        _close(server, ports, error)
        raise
    return {**props, "results": [*lines, *_not_proven(props, credentials)]}


def _close(server: Server, ports: tuple[int, int], reason: BaseException) -> None:
    try:
        run_script(server, server.line("close", *ports, "check"), script_text("funnel"))
    except SshError as unreachable:
        reason.add_note(
            f"The funnel could not be closed from here; it closes when its lease ends: {unreachable}"
        )


def _probe(props: dict[str, Any]) -> OutsideProbe:
    host, _, port = (props.get("connectTo") or "").rpartition(":")
    roots = props.get("rootsFile")
    return OutsideProbe(
        domain=props["domain"],
        port=int(props["funnelPort"]),
        connect_to=(host.strip("[]"), int(port)) if host else None,
        roots_file=Path(roots) if roots else None,
    )


def _wait_seconds(props: dict[str, Any]) -> float:
    return WAIT_FOR_INGRESS_SECONDS if props.get("connectTo") else WAIT_FOR_DNS_SECONDS


def _credentials(props: dict[str, Any]) -> list[Credential]:
    """Return the device credentials to ask with; empty only if no device of ours may get in.

    Raises ``NoCredentialError`` if there should be one: the proof is never silently skipped.
    """
    if not props["expectDevice"]:
        return []
    keystore = keystore_of(props)
    found = [
        Credential(credential.certificate_path, credential.key_path, props["passphrase"])
        for credential in keystore.probe_credentials()
    ]
    if not found and not keystore.all_devices_are_revoked():
        raise NoCredentialError(
            f"The keystore {props['keystore']} holds no device's key and certificate that are valid today, "
            "so it cannot be proven that a device gets in, and the funnel stays closed; bring the keystore "
            "back from a backup, mount its disk, or set this machine's clock right."
        )
    return found


def by_question(lines: Sequence[str]) -> dict[str, str]:
    """Return the lines of a proof by question, so that a diff names what differs."""
    return dict(line.split(": ", 1) for line in lines)


def _not_proven(props: dict[str, Any], credentials: Sequence[Credential]) -> list[str]:
    """Return, in words, what was not checked."""
    if credentials:
        return []
    if props["expectDevice"]:
        return ["Not checked: that a device gets in, because all of them are revoked"]
    if props.get("adopted"):
        return ["Not checked: that an adopted device gets in, because its key is only on the device"]
    return ["Not checked: that a device gets in, because none is configured"]


def open_until(config: ExposureConfig) -> str:
    """Return how long a proven exposure stays open: ``always``, ``+SECONDS`` or seconds since 1970."""
    if config.expose_until is not None:
        return str(int(config.expose_until.timestamp()))
    if config.lease_hours is not None:
        return f"+{config.lease_hours * 3600}"
    return "always"


def exposed_digest(config: ExposureConfig) -> str:
    """Return a short digest of everything that answers or refuses a visitor: a change means another check."""
    settings = "".join(file.text for file in settings_files(config))
    lists = config.ban_lists.lines() if config.ban_lists else ""
    home = f"{config.immich} {config.lan}"
    text = f"{configuration_digest(config)}\n{home}\n{settings}{lists}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def how_it_is_asked(config: ExposureConfig) -> str:
    """Return, as text, what else the check depends on."""
    check = config.check
    asked = [check.connect_to, check.roots_file, config.funnel_port, config.proxy_port, open_until(config)]
    return " ".join(map(str, asked))


class ExposureCheck(Step, module="immich", name="ExposureCheck"):
    """The outside check, and the confirmation that lets the funnel stay open.

    It opens the funnel on a short lease. A funnel that was already open was put on one earlier (``begun``) if
    anything behind it changed. If the check fails or the operator's machine dies meanwhile, the funnel closes
    at once; if the server does not notice that, it closes when the lease ends.
    """

    results: pulumi.Output[list[str]]
    """What was proven, one line each."""

    def __init__(
        self,
        name: str,
        *,
        server: Server,
        domain: pulumi.Output[str],
        config: ExposureConfig,
        keystore: KeystoreLocation,
        authority: CertificateAuthority,
        funnel: Funnel,
        begun: pulumi.Output[str],
        opts: pulumi.ResourceOptions,
    ) -> None:
        props: dict[str, pulumi.Input[Any]] = {
            **props_of(server),
            "domain": domain,
            "funnelPort": config.funnel_port,
            "proxyPort": config.proxy_port,
            **props_of(config.check),
            **keystore.props(),
            # The folder of the module's files, if they are ours: what was proven is recorded there.
            "configDir": config.config_dir if config.module is ModuleWay.MANAGED else "-",
            "expectDevice": bool(config.devices),
            "adopted": config.adopt is not None,
            **({"frames": True} if config.frames else {}),
            "rejectWith": config.reject_with,
            "edge": exposed_digest(config),
            # With a single trusted authority this is just its fingerprint.
            "authority": authority.trusted.apply(",".join),
            # The script that runs. Its answers are not inputs; a changed script is a reason to check again.
            "text": script_digest("funnel"),
            "begun": begun,
            "until": open_until(config),
            "results": None,
        }
        # Once the funnel is closed there is nothing left to take back.
        with_funnel = pulumi.ResourceOptions(depends_on=[funnel], deleted_with=funnel.close)
        super().__init__(_Provider(), name, props, pulumi.ResourceOptions.merge(opts, with_funnel))
