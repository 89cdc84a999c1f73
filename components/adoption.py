"""Taking over a manual setup: its authority, devices, bans and open funnel."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pulumi
from pulumi.dynamic import CreateResult, DiffResult, UpdateResult

from components.config.adopt import ON_THE_SERVER, AdoptConfig, AdoptedDeviceConfig
from components.device_list import EnrollableCertificate
from components.devices.keystore_location import KeystoreLocation, keystore_of
from components.engine.operator_error import OperatorError, without_traceback
from components.engine.props import from_props, props_of
from components.engine.server_words import TALKATIVE_LOGIN
from components.engine.step import Step, StepProvider
from components.remote.chapter_bans import BAN_LIST, bans_in
from components.remote.remote_script import PayloadFile, Server, script_text
from components.remote.server_script import ServerScript
from components.remote.ssh import run_script
from pki import Adoption as KnownAdoption
from pki import Claim, Source

FILE_LIMIT = 256 * 1024
"""Bytes of a file. A certificate or key has a few thousand; a list of bans may be long."""

BAN_LIST_PLACE = f"{ON_THE_SERVER}{BAN_LIST}"

INPUTS = ("caCertificate", "caKey", "devices")
OUTPUTS = ("authority", "adopted", "files", "bans")


class _Provider(StepProvider):
    @without_traceback
    def create(self, props: dict[str, Any]) -> CreateResult:
        return CreateResult("adoption", take_over(props))

    def diff(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> DiffResult:
        # A new server address or passphrase alone does not change what was adopted.
        return DiffResult(changes=any(_olds.get(key) != _news.get(key) for key in INPUTS))

    @without_traceback
    def update(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> UpdateResult:
        outputs = take_over(_news)
        # The manual setup's bans are taken over once: a ban that has been lifted since stays lifted.
        return UpdateResult({**outputs, "bans": _olds["bans"]})


def take_over(props: dict[str, Any]) -> dict[str, Any]:
    """Read what was made manually, put it into the keystore, and return the outputs of the resource.

    The authority's key is read only once. A file that the keystore already holds may be gone from its
    original path, so the result is the same after the leftovers have been removed.

    Raises ``OperatorError``, ``SshError`` or ``KeystoreError``; then nothing was changed.
    """
    keystore, adopt = keystore_of(props), from_props(AdoptConfig, props)
    known = keystore.adoption()
    found = read_places(from_props(Server, props), [*_places(adopt, known), BAN_LIST_PLACE])
    ban_list = found.pop(BAN_LIST_PLACE)
    _refuse_missing(found, _needed(adopt, known))
    adoption = keystore.take_over(
        certificate=found[adopt.ca_certificate],
        key=found.get(adopt.ca_key),
        key_passphrase=props.get("caKeyPassphrase"),
        devices=[_claim(each, found) for each in adopt.devices],
    )
    return {
        **props,
        "authority": adoption.authority,
        "adopted": {
            each.name: {"fingerprint": each.fingerprint, "notAfter": each.until.isoformat()}
            for each in adoption.devices
        },
        "files": {**adoption.files, **({BAN_LIST_PLACE: ban_list.digest} if ban_list else {})},
        "bans": list(bans_in(ban_list.content.decode(errors="replace"))) if ban_list else [],
    }


def _places(adopt: AdoptConfig, known: KnownAdoption | None) -> list[str]:
    """Return the paths to read; the key is among them only until the keystore holds it."""
    authority = [adopt.ca_certificate] if known else [adopt.ca_certificate, adopt.ca_key]
    return [*authority, *(each.certificate for each in adopt.devices if each.certificate)]


def _needed(adopt: AdoptConfig, known: KnownAdoption | None) -> list[str]:
    """Return the paths that must exist, because the keystore does not hold their content."""
    if known is None:
        return _places(adopt, None)
    kept = {device.name for device in known.devices if device.certificate_pem is not None}
    return [each.certificate for each in adopt.devices if each.certificate and each.name not in kept]


def _claim(device: AdoptedDeviceConfig, found: Mapping[str, Source | None]) -> Claim:
    return Claim(
        device.name,
        certificate=found[device.certificate] if device.certificate else None,
        fingerprint=device.fingerprint,
        until=device.until,
    )


def _refuse_missing(found: Mapping[str, Source | None], needed: Iterable[str]) -> None:
    for place in needed:
        if found[place] is None:
            where = "on the server" if place.startswith(ON_THE_SERVER) else "on this machine"
            raise OperatorError(
                f"There is no file {place.removeprefix(ON_THE_SERVER)} {where}, although adopt names it. "
                "Correct the path; if it is on a drive that must be unlocked by hand, unlock it and run "
                "again."
            )


# Files here and on the server


def read_places(server: Server, places: Sequence[str]) -> dict[str, Source | None]:
    """Read files on this machine and, after ``server:``, on the server as root; None for a missing file.

    Raises ``SshError`` if the server cannot be reached, ``OperatorError`` if a file cannot be read.
    """
    remote = [place for place in dict.fromkeys(places) if place.startswith(ON_THE_SERVER)]
    found = {place: _read_here(place) for place in places if place not in remote}
    if remote:
        paths = [place.removeprefix(ON_THE_SERVER) for place in remote]
        answer = run_script(server, server.line("read", *paths), script_text("adopt"))
        found.update(_answers(remote, answer))
    return found


def _read_here(place: str) -> Source | None:
    try:
        with Path(place).expanduser().open("rb") as file:
            content = file.read(FILE_LIMIT + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise OperatorError(
            f"{place} cannot be read ({error.strerror}); correct adopt or the file."
        ) from error
    if len(content) > FILE_LIMIT:
        raise OperatorError(f"{place} is far too large for a certificate or a key; correct adopt.")
    return Source(place, content)


def _answers(places: Sequence[str], answer: str) -> dict[str, Source | None]:
    """Read one line per path: base64, or ``-`` for a missing file."""
    lines = answer.splitlines()
    if len(lines) != len(places):
        raise OperatorError(
            f"The server did not answer as expected when its files were read; {TALKATIVE_LOGIN}"
        )
    return {place: _decoded(place, line) for place, line in zip(places, lines, strict=True)}


def _decoded(place: str, line: str) -> Source | None:
    if line == "-":
        return None
    try:
        return Source(place, base64.b64decode(line, validate=True))
    except binascii.Error as error:
        raise OperatorError(f"{place} did not arrive completely; run it again.") from error


# Resources


@dataclass(frozen=True)
class AdoptedCertificate:
    """The certificate of an adopted device; it has no previous certificate."""

    fingerprint: pulumi.Output[str]
    not_after: pulumi.Output[str]
    previous_fingerprint: pulumi.Output[str]
    previous_until: pulumi.Output[str]


class Adoption(Step, module="immich", name="Adoption"):
    """The adopted authority, kept in the keystore as if created there, and the adopted devices' fingerprints.

    Nothing is ever deleted: what was adopted belongs to the keystore from then on.
    """

    authority: pulumi.Output[str]
    adopted: pulumi.Output[dict[str, dict[str, str]]]
    certificates: dict[str, AdoptedCertificate]
    """The certificate of each adopted device, by name."""
    files: pulumi.Output[dict[str, str]]
    """The SHA-256 of each adopted file, by its path."""
    bans: pulumi.Output[list[str]]
    """The addresses that the manual setup banned, as file names."""

    def __init__(
        self,
        name: str,
        *,
        server: Server,
        keystore: KeystoreLocation,
        adopt: AdoptConfig,
        ca_passphrase: pulumi.Output[str] | None,
        opts: pulumi.ResourceOptions,
    ) -> None:
        props: dict[str, pulumi.Input[Any]] = {
            **props_of(server),
            **keystore.props(),
            **props_of(adopt),
            "caKeyPassphrase": ca_passphrase,
        }
        super().__init__(_Provider(), name, {**props, **dict.fromkeys(OUTPUTS)}, opts)
        self.certificates = {each.name: self._certificate(each.name) for each in adopt.devices}

    def _certificate(self, device: str) -> AdoptedCertificate:
        of_device = self.adopted.apply(lambda adopted: adopted[device])
        none = pulumi.Output.from_input("")
        return AdoptedCertificate(of_device["fingerprint"], of_device["notAfter"], none, none)


def with_predecessor(new: EnrollableCertificate, old: AdoptedCertificate) -> AdoptedCertificate:
    """Return the new certificate of an adopted device, with the adopted one as its predecessor.

    When the new certificate is renewed, years later, the one before that renewal replaces the adopted one.
    """
    return AdoptedCertificate(
        new.fingerprint,
        new.not_after,
        pulumi.Output.all(new.previous_fingerprint, old.fingerprint).apply(lambda both: both[0] or both[1]),
        pulumi.Output.all(new.previous_fingerprint, new.previous_until, old.not_after).apply(
            lambda values: values[1] if values[0] else values[2]
        ),
    )


class ChapterTakeOver(ServerScript, module="immich", name="ChapterTakeOver"):
    """The server side: takes the bans over and closes the manually opened funnel.

    ``ExposureCheck`` opens ours. This runs once; later runs only update the list of adopted files, by which
    the manual setup's leftovers are recognised when their owner removes them. ``config_dir`` is None if the
    configuration is not on the server.
    """

    def __init__(
        self,
        name: str,
        *,
        server: Server,
        adoption: Adoption,
        funnel_port: int,
        proxy_port: int,
        config_dir: str | None,
        opts: pulumi.ResourceOptions,
    ) -> None:
        super().__init__(
            name,
            server,
            script="adopt",
            create=server.line("begin", funnel_port, proxy_port),
            update=server.line("note"),
            payload=pulumi.Output.all(adoption.files, adoption.bans).apply(
                lambda both: note_files(both[0], both[1], config_dir)
            ),
            opts=opts,
        )


def note_files(
    files: Mapping[str, str], bans: Sequence[str], config_dir: str | None
) -> tuple[PayloadFile, ...]:
    """Return the script's files: the configuration's folder with digests and paths, and the bans."""
    places = "".join(
        f"{digest} {place.removeprefix(ON_THE_SERVER) if place.startswith(ON_THE_SERVER) else '-'}\n"
        for place, digest in sorted(files.items())
    )
    return (
        PayloadFile("adopted", f"configuration {config_dir or '-'}\n{places}"),
        PayloadFile("bans", "".join(f"{name}\n" for name in bans)),
    )
