"""What has changed on the server since it was proven (drift), and the reason to repair it.

The engine compares inputs with its state and asks no server. So the program looks at the server at every
preview and update, and its findings become an input of one resource: drift shows as a change, in words. When
that resource's step runs, it records the time, and every script carries that time as a note. All scripts then
run again, in order; each is idempotent. If only the funnel was closed or altered, only the steps that open
and prove it carry the note. ``pulumi refresh`` looks through the same resource. The step also tells the
keystore what the owner revoked on the server, because the keystore outlives the server's own list.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import pulumi
from pulumi.dynamic import CheckResult, CreateResult, DiffResult, ReadResult, UpdateResult
from pulumi.output import Unknown

from components.config.home import Immich
from components.config.stack_config import ExposureConfig
from components.devices.keystore_location import KeystoreLocation
from components.devices.let_in import Authorized, missing_devices, revoked_but_named, wrongly_enrolled
from components.devices.report import note_revocations
from components.engine.operator_error import OperatorError, without_traceback
from components.engine.options import is_for_a_plan
from components.engine.props import from_props, props_of
from components.engine.step import Step, StepProvider, differs, known
from components.exposure_check import exposed_digest
from components.link_report import api_key_file
from components.preflight.preflight import clock_apart
from components.preflight.rules import CLOCKS_APART_SECONDS, clocks_differ, key_notes, outdated
from components.remote.remote_script import Server, script_text
from components.remote.ssh import SshError, SudoPasswordError, run_script
from pki import Revocation

LOOK_SECONDS = 60
"""A look reads a few files and asks tailscaled."""

NEVER = "never repaired"

REVOKED = re.compile(r"[0-9a-f]{64} \d{1,10} [A-Za-z0-9][A-Za-z0-9._-]{0,63}")
LET_IN = re.compile(r"[0-9a-f]{64} .*")
DIGEST = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True)
class Seen:
    """What a look found, in sentences.

    The next ``up`` repairs ``to_mend`` and ``in_the_funnel``, the latter by only opening and proving the
    funnel. Only the owner can resolve ``to_tell``; ``to_refuse`` must be resolved before an ``up``;
    ``closed`` says why the funnel is closed if no ``up`` opens it. ``revoked`` is what the owner revoked on
    the server, as ``FINGERPRINT SECONDS NAME``; ``devices`` is who is enrolled, as ``FINGERPRINT NAME``.
    ``proven_for`` is the digest of what is exposed through an open and proven funnel, if the server knows it.
    """

    to_mend: list[str] = field(default_factory=list)
    in_the_funnel: list[str] = field(default_factory=list)
    to_tell: list[str] = field(default_factory=list)
    to_refuse: list[str] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)
    revoked: list[str] = field(default_factory=list)
    devices: list[str] = field(default_factory=list)
    proven_for: str = ""


def look(
    server: Server,
    funnel_port: int,
    proxy_port: int,
    api_key: str | None = None,
    immich: Immich | None = None,
) -> Seen:
    """Ask the server what differs from what was proven.

    With an ``api_key``, Immich is asked for its links using that key, which may not be on the server yet.
    Before the first run, when the server does not know Immich's address, only the key's permissions are
    checked.

    Raises ``SshError`` if the server cannot be reached.
    """
    place = (immich.address or "-", immich.port) if api_key and immich else ()
    command = server.line("look", funnel_port, proxy_port, *place)
    before = time.time()
    text = script_text("drift", (api_key_file(api_key),) if api_key else ())
    lines = run_script(server, command, text, timeout_seconds=LOOK_SECONDS).splitlines()
    after = time.time()
    return Seen(
        to_mend=list(_said(lines, "mend")),
        in_the_funnel=list(_said(lines, "funnel")),
        to_tell=[*_said(lines, "tell"), *_of_the_key(lines), *_of_versions(lines)],
        to_refuse=_of_the_clock(lines, before, after),
        closed=list(_said(lines, "closed")),
        revoked=[said for said in _said(lines, "revoked") if REVOKED.fullmatch(said)],
        devices=[said for said in _said(lines, "device") if LET_IN.fullmatch(said)],
        proven_for="".join(said for said in _said(lines, "proven-for") if DIGEST.fullmatch(said)),
    )


def judged(seen: Seen, authorized: Authorized) -> Seen:
    """Return a look's findings, compared with who is authorised by the config and the keystore."""
    by_hand = [_revocation(each, words) for each, words in _in_words(seen.revoked).items()]
    out = revoked_but_named(by_hand, seen.devices, authorized)
    seen = replace(seen, to_tell=[*seen.to_tell, *out])
    # If something else needs repair, everything runs again; if the owner closed the funnel, nothing does.
    if seen.to_mend or seen.closed:
        return seen
    revoked = [said.partition(" ")[0] for said in seen.revoked]
    return replace(seen, to_mend=missing_devices(seen.devices, revoked, authorized))


def _said(lines: Sequence[str], word: str) -> Iterator[str]:
    return (line.removeprefix(f"{word} ") for line in lines if line.startswith(f"{word} "))


def _of_the_key(lines: Sequence[str]) -> list[str]:
    now = datetime.now(UTC)
    return [sentence for end in _said(lines, "node-key") for sentence in key_notes(end, now)]


def _of_versions(lines: Sequence[str]) -> list[str]:
    pairs = (version.partition(" ") for version in _said(lines, "version"))
    return [sentence for program, _, text in pairs for sentence in outdated(program, text)]


def _of_the_clock(lines: Sequence[str], before: float, after: float) -> list[str]:
    """Refuse clocks that are too far apart: certificates would be made or renewed by the wrong one."""
    clocks = [clock_apart(int(text), before, after) for text in _said(lines, "clock") if text.isdecimal()]
    return [clocks_differ(apart) for apart in clocks if abs(apart) >= CLOCKS_APART_SECONDS]


class ClockError(OperatorError):
    """The clocks are too far apart; the message says by how much and what to do."""


FINDINGS = ("found", "foundInFunnel", "refused")
MOMENT_OF = {"found": "repaired", "foundInFunnel": "funnelRepaired"}
"""When the findings of a kind were last repaired."""
MOMENTS = tuple(MOMENT_OF.values())
BY_HAND = "revokedOnTheServer"
"""Name and time of each revocation, by fingerprint; kept when the server cannot be read."""
PROVEN_FOR = "provenFor"
"""The digest the server was last proven for; ``EXPOSED`` is the one that this config requires."""
EXPOSED = "exposedDigest"

ANOTHER_PROOF = (
    "The server was last proven with settings other than those of this stack's last run (a backup of it was "
    "restored, or another copy of the state was used); up applies this stack's."
)


class _Provider(StepProvider):
    def check(self, _olds: dict[str, Any], news: dict[str, Any]) -> CheckResult:
        # The program does not know its state, and a preview should show what an up would do.
        if not _is_seen(news):
            return CheckResult(news, [])
        news = {**news, **_of_another_proof(_olds, news)}
        return CheckResult({**news, **_moments(_olds, news)}, [])

    @without_traceback
    def create(self, props: dict[str, Any]) -> CreateResult:
        _refuse(props)
        _tell_of_revocations({}, props)
        return CreateResult("drift", {**props, **_nothing_found(), **dict.fromkeys(MOMENTS, NEVER)})

    def diff(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> DiffResult:
        if not _is_seen(_news):
            return DiffResult(changes=True)  # so that a plan permits repairs
        moved = differs(_olds, _news, *FINDINGS, *MOMENTS, BY_HAND, PROVEN_FOR)
        # The findings of a refresh are in the state.
        found = any(_found_in(_olds, _news, kind) for kind in FINDINGS)
        return DiffResult(changes=moved or found or bool(_revoked_since(_olds, _news)))

    @without_traceback
    def update(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> UpdateResult:
        _refuse(_news)
        _tell_of_revocations(_olds, _news)
        revoked = {**(_olds.get(BY_HAND) or {}), **(_news.get(BY_HAND) or {})}
        moments = {moment: _mended(_olds, _news, kind, moment) for kind, moment in MOMENT_OF.items()}
        return UpdateResult({**_news, **_nothing_found(), BY_HAND: revoked, **moments})

    @without_traceback
    def read(self, id_: str, props: dict[str, Any]) -> ReadResult:
        seen = look(from_props(Server, props), int(props["funnelPort"]), int(props["proxyPort"]))
        found = {"found": seen.to_mend, "foundInFunnel": seen.in_the_funnel, PROVEN_FOR: seen.proven_for}
        return ReadResult(id_, {**props, **found, **_of_another_proof(props, found)})


def _of_another_proof(olds: Mapping[str, Any], news: Mapping[str, Any]) -> dict[str, Any]:
    """Return changed findings if the server was proven for a config other than this state's."""
    last, proven = olds.get(EXPOSED), news.get(PROVEN_FOR)
    if not last or not proven or last == proven:
        return {}
    return {"found": [*news["found"], ANOTHER_PROOF], "repaired": _moment()}


def _moments(olds: Mapping[str, Any], news: Mapping[str, Any]) -> dict[str, str]:
    """Return when each kind was repaired: now if there is something to repair, else when it last was.

    A preview takes this for the outcome. If it were new although nothing was found, the preview would
    announce that every step runs again.
    """
    return {
        moment: news[moment] if olds and news[kind] else olds.get(moment, NEVER)
        for kind, moment in MOMENT_OF.items()
    }


def _mended(olds: Mapping[str, Any], news: Mapping[str, Any], kind: str, moment: str) -> str:
    if news[kind]:
        return str(news[moment])  # as the preview showed it
    return _moment() if olds.get(kind) else str(olds[moment])


def _nothing_found() -> dict[str, list[str]]:
    return {kind: [] for kind in FINDINGS}


def _is_seen(news: Mapping[str, Any]) -> bool:
    """Tell whether the findings are known: they are unknown in a preview made for a plan."""
    return len(known(news)) == len(news)


def _found_in(olds: dict[str, Any], news: dict[str, Any], kind: str) -> bool:
    return bool(olds.get(kind) or news.get(kind))


def _revoked_since(olds: Mapping[str, Any], news: Mapping[str, Any]) -> list[Revocation]:
    """Return what the owner has revoked on the server since this step last ran."""
    known = olds.get(BY_HAND) or {}
    fresh = {each: said for each, said in (news.get(BY_HAND) or {}).items() if each not in known}
    return [_revocation(fingerprint, words) for fingerprint, words in fresh.items()]


def _in_words(said: Sequence[str]) -> dict[str, str]:
    """Return the lines of ``Seen.revoked`` as a preview shows them, by fingerprint."""
    parts = (line.split(" ") for line in said)
    return {each: f"{name} on {datetime.fromtimestamp(int(since), UTC)}" for each, since, name in parts}


def _revocation(fingerprint: str, words: str) -> Revocation:
    """Parse what ``_in_words`` wrote."""
    name, _, since = words.partition(" on ")
    return Revocation(fingerprint, name, int(datetime.fromisoformat(since).timestamp()), by_hand=True)


def _tell_of_revocations(olds: Mapping[str, Any], news: Mapping[str, Any]) -> None:
    """Record new revocations in the keystore. Raises ``KeystoreError``; what is not recorded is retried."""
    if revocations := _revoked_since(olds, news):
        note_revocations(news, revocations)


def _refuse(news: dict[str, Any]) -> None:
    if news["refused"]:
        raise ClockError(" ".join(news["refused"]))


def _moment() -> str:
    return f"repaired at {datetime.now(UTC).isoformat(timespec='seconds')}"


class Drift(Step, module="immich", name="Drift"):
    """Looks at the server, and has everything repaired if it differs from what was proven."""

    repaired: pulumi.Output[str]
    """When drift was last repaired, in words; ``never repaired`` until then."""
    funnelRepaired: pulumi.Output[str]

    def __init__(
        self,
        name: str,
        *,
        server: Server,
        keystore: KeystoreLocation,
        config: ExposureConfig,
        seen: pulumi.Output[Seen],
        opts: pulumi.ResourceOptions,
    ) -> None:
        props: dict[str, pulumi.Input[Any]] = {
            **props_of(server),
            **keystore.props_without_passphrase(),
            "funnelPort": config.funnel_port,
            "proxyPort": config.proxy_port,
            BY_HAND: seen.apply(lambda found: _in_words(found.revoked)),
            "found": seen.apply(lambda found: found.to_mend),
            "foundInFunnel": seen.apply(lambda found: found.in_the_funnel),
            "refused": seen.apply(lambda found: found.to_refuse),
            PROVEN_FOR: seen.apply(lambda found: found.proven_for),
            EXPOSED: exposed_digest(config),
            # Already known in a preview, so that it shows what would run again.
            "repaired": seen.apply(lambda found: _moment() if found.to_mend else NEVER),
            "funnelRepaired": seen.apply(lambda found: _moment() if found.in_the_funnel else NEVER),
        }
        super().__init__(_Provider(), name, props, opts)

    @property
    def funnel_repaired(self) -> pulumi.Output[str]:
        """The same for the steps that open and prove the funnel; it also changes with ``repaired``."""
        return pulumi.Output.concat(self.repaired, "; the funnel ", self.funnelRepaired)


def look_now(server: Server, config: ExposureConfig, authorized: Authorized) -> pulumi.Output[Seen]:
    """Look while the program runs, return what was seen, and warn of what only the owner can fix.

    If the server cannot be read, the result is empty and a preview says so. If sudo refuses the password, the
    run ends.
    """
    if is_for_a_plan():
        unknown: Any = Unknown()  # type: ignore[no-untyped-call]
        return pulumi.Output.from_input(unknown)
    if server.lacks_key:
        return pulumi.Output.from_input(Seen())

    async def look_aside(secrets: dict[str, str | None]) -> Seen:
        # Without a stack id, because everybody who can log in may look.
        plain = replace(server, sudo_password=secrets["password"], stack_id=None)
        ports = config.funnel_port, config.proxy_port
        try:
            found = await asyncio.to_thread(look, plain, *ports, secrets["api_key"], config.immich)
        except SudoPasswordError as error:
            # Each further attempt may lock the account.
            raise pulumi.RunError(str(error)) from None
        except SshError as error:
            pulumi.warn(f"This run could not check the server: {error}")
            return Seen()
        seen = judged(found, authorized)
        for sentence in (*seen.to_refuse, *seen.closed, *seen.to_tell):
            pulumi.warn(sentence)
        return seen

    secrets = pulumi.Output.all(password=server.sudo_password, api_key=config.immich_api_key)
    return pulumi.Output.unsecret(secrets.apply(look_aside))


def to_be_revoked(seen: pulumi.Output[Seen], authorized: Authorized) -> pulumi.Output[dict[str, str]]:
    """Return, in words by fingerprint, the devices that a look found enrolled and that must not be."""
    return seen.apply(lambda found: wrongly_enrolled(found.devices, authorized))
