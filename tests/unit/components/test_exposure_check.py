"""The verdict from outside: what proves an exposure, what condemns it, and that the funnel then closes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pytest_mock import MockerFixture

from components import exposure_check
from components.exposure_check import (
    PROVEN,
    NoCredentialError,
    by_question,
    check_from_outside,
    check_or_close,
)
from components.remote.outside_probe import (
    Answer,
    Credential,
    KeyFileError,
    NotReachableError,
    OutsideProbe,
    UnansweredError,
    WrongAnswerError,
)
from pki import AuthorityProfile, DeviceProfile, Keystore, Revocation

REFUSAL = Answer(403, {}, b'{"status":403,"message":"Forbidden"}')
CREDENTIAL = Credential(Path("phone.crt"), Path("phone.key"), "secret")
SOUND: dict[tuple[str, bool], Answer] = {
    ("/", False): REFUSAL,
    ("/api/users/me", False): REFUSAL,
    ("/api/shared-links/me?key=", False): REFUSAL,
    ("/api/server/config", False): Answer(200, {}, b"{}"),
    ("/api/server/ping", True): Answer(200, {}, b"{}"),
}


def probe_with(mocker: MockerFixture, answers: dict[tuple[str, bool], Answer]) -> OutsideProbe:
    """Return a probe that answers from a table of (path, with certificate)."""
    mocker.patch.object(
        OutsideProbe, "get", lambda _self, path, credential=None: answers[path, credential is not None]
    )
    return OutsideProbe("immich.example.ts.net", 443, None, None)


def test_a_sound_exposure_is_proven_line_by_line(mocker: MockerFixture) -> None:
    lines = check_from_outside(probe_with(mocker, SOUND), [CREDENTIAL], wait_seconds=0)
    assert len(lines) == 5
    assert any("a stranger sees no login page" in line for line in lines)


@pytest.mark.parametrize(
    ("question", "answer", "words"),
    [
        (("/", False), Answer(200, {}, b"<html>"), "answered 200 instead of 403"),
        (("/", False), Answer(403, {}, b"<html>nginx</html>"), "without our JSON refusal"),
        (("/api/users/me", False), Answer(200, {}, b"{}"), "no private API"),
        (("/api/users/me", False), Answer(401, {}, b"{}"), "answered 401"),
        (("/api/server/config", False), Answer(502, {}, b""), "answered 502"),
        (("/api/server/config", False), Answer(200, {"alt-svc": 'h3=":443"'}, b"{}"), "HTTP/3"),
        (("/api/server/ping", True), REFUSAL, "at least one 200"),
    ],
)
def test_any_other_answer_condemns_it(
    mocker: MockerFixture, question: tuple[str, bool], answer: Answer, words: str
) -> None:
    with pytest.raises(WrongAnswerError, match=words):
        check_from_outside(probe_with(mocker, {**SOUND, question: answer}), [CREDENTIAL], wait_seconds=0)


def test_devices_are_asked_until_one_gets_in(mocker: MockerFixture) -> None:
    """To open a key takes its time, and there may be hundreds; those that are not enrolled are refused."""
    names = ("old", "phone", "laptop")
    old, phone, laptop = (Credential(Path(f"{name}.crt"), Path(f"{name}.key"), "secret") for name in names)
    asked: list[Credential] = []
    refused = REFUSAL

    def get(_self: OutsideProbe, path: str, credential: Credential | None = None) -> Answer:
        if credential is None:
            return SOUND[path, False]
        asked.append(credential)
        return Answer(200, {}, b"{}") if credential == phone else refused

    mocker.patch.object(OutsideProbe, "get", get)
    probe = OutsideProbe("immich.example.ts.net", 443, None, None)
    assert len(check_from_outside(probe, [old, phone, laptop], wait_seconds=0)) == 5
    assert asked == [old, phone]
    with pytest.raises(WrongAnswerError, match=r"answered \[403, 403\]; at least one 200"):
        check_from_outside(probe, [old, laptop], wait_seconds=0)
    refused = Answer(502, {}, b"")
    with pytest.raises(WrongAnswerError, match=r"answered \[502\]; at least one 200"):
        check_from_outside(probe, [old, phone], wait_seconds=0)


@pytest.mark.parametrize("answer", [REFUSAL, Answer(200, {}, b"{}")], ids=["refused", "let in"])
def test_where_there_are_frames_a_wrong_secret_is_tried(mocker: MockerFixture, answer: Answer) -> None:
    """At a path that Immich itself answers without a login, or a refusal would prove nothing."""
    asked = []

    def get(
        _self: OutsideProbe, path: str, credential: Credential | None = None, headers: Any = None
    ) -> Answer:
        if headers is None:
            return SOUND[path, credential is not None]
        asked.append((path, headers))
        return answer

    mocker.patch.object(OutsideProbe, "get", get)
    probe = OutsideProbe("immich.example.ts.net", 443, None, None)
    assert len(check_from_outside(probe, [CREDENTIAL], wait_seconds=0)) == 5 and asked == []
    if answer is REFUSAL:
        lines = check_from_outside(probe, [CREDENTIAL], wait_seconds=0, frames=True)
        assert len(by_question(lines)) == 6
        assert "GET /api/server/ping 403: a secret that no frame has opens nothing" in lines
    else:
        with pytest.raises(WrongAnswerError, match="a secret that no frame has opens nothing"):
            check_from_outside(probe, [CREDENTIAL], wait_seconds=0, frames=True)
    assert asked == [("/api/server/ping", {"X-Immich-Exposure-Frame": "ixframe_" + "a" * 32})]


def test_an_edge_that_hangs_up_is_proven_when_it_is_meant_to(mocker: MockerFixture) -> None:
    def get(_self: OutsideProbe, path: str, credential: Credential | None = None) -> Answer:
        answer = SOUND[path, credential is not None]
        if answer is REFUSAL:
            raise UnansweredError("hangs up.")
        return answer

    mocker.patch.object(OutsideProbe, "get", get)
    probe = OutsideProbe("immich.example.ts.net", 443, None, None)
    lines = check_from_outside(probe, [CREDENTIAL], wait_seconds=0, drops=True)
    assert "GET / no answer: a stranger sees no login page" in lines and len(lines) == 5
    with pytest.raises(WrongAnswerError, match="got no answer instead of 403"):
        check_from_outside(probe, [CREDENTIAL], wait_seconds=0)


@pytest.mark.parametrize("drops", [False, True])
def test_who_is_banned_on_this_machine_reads_so(mocker: MockerFixture, drops: bool) -> None:
    """By a list of countries, say, while the owner is abroad: the public path meets silence as well."""
    sleep = mocker.patch("time.sleep")
    mocker.patch.object(
        OutsideProbe, "get", side_effect=UnansweredError("It hung up without answering a request.")
    )
    probe = OutsideProbe("immich.example.ts.net", 443, None, None)
    with pytest.raises(
        WrongAnswerError,
        match="hung up without answering a request. A visitor who is banned .* change banLists",
    ):
        check_from_outside(probe, [CREDENTIAL], wait_seconds=480, drops=drops)
    assert sleep.call_count == 10, "as long as a reload takes, and not until DNS is given up"


def test_an_edge_that_answers_though_it_should_hang_up_is_safe_as_well(mocker: MockerFixture) -> None:
    assert len(check_from_outside(probe_with(mocker, SOUND), [], wait_seconds=0, drops=True)) == 4


def test_nobody_answering_is_waited_for_and_then_told(mocker: MockerFixture) -> None:
    sleep = mocker.patch("time.sleep")
    mocker.patch("time.monotonic", side_effect=[0, 1, 2, 100])
    mocker.patch.object(OutsideProbe, "get", side_effect=NotReachableError("no address yet."))
    with pytest.raises(NotReachableError, match="no address yet"):
        check_from_outside(OutsideProbe("immich.example.ts.net", 443, None, None), [], wait_seconds=30)
    assert sleep.call_count == 2


PROPS: dict[str, Any] = {
    "host": "pi",
    "port": 22.0,
    "user": "admin",
    "hostKey": "ssh-ed25519 AAAA",
    "domain": "immich.example.ts.net",
    "funnelPort": 443.0,
    "configDir": "/etc/nixos",
    "edge": "0123456789abcdef",
    "proxyPort": 8443.0,
    "rejectWith": "forbidden",
    "expectDevice": False,
    "until": "always",
}


def hears_the_proof(_server: Any, command: str, _text: str, **said: Any) -> str:
    """Answer like the server, which is told of the proof once it has opened."""
    if " prove " in command:
        assert said["reply"]() == PROVEN
    return json.dumps({})


def verbs_of(run: Any) -> list[str]:
    """Return the verbs of the funnel script in the order in which they were sent."""
    return [call.args[1].split(" -- ")[1].split()[0] for call in run.call_args_list]


def test_a_proven_exposure_is_confirmed(mocker: MockerFixture) -> None:
    run = mocker.patch.object(exposure_check, "run_script", side_effect=hears_the_proof)
    mocker.patch.object(exposure_check, "check_from_outside", return_value=["fine"])
    assert check_or_close(PROPS)["results"][0] == "fine"
    assert verbs_of(run) == ["prove"]
    line = run.call_args_list[0].args[1]
    assert line.endswith(" prove 443 8443 600 always /etc/nixos 0123456789abcdef"), "the server counts"


@pytest.mark.parametrize("error", [WrongAnswerError("open to all."), OSError("gone"), KeyboardInterrupt()])
def test_whatever_goes_wrong_the_funnel_closes(mocker: MockerFixture, error: BaseException) -> None:
    run = mocker.patch.object(exposure_check, "run_script", side_effect=hears_the_proof)
    mocker.patch.object(exposure_check, "check_from_outside", side_effect=error)
    with pytest.raises(type(error)):
        check_or_close(PROPS)
    assert verbs_of(run) == ["prove", "close"]
    assert run.call_args_list[-1].args[1].endswith(" close 443 8443 check")


def keystore_with(mocker: MockerFixture, *credentials: Credential) -> None:
    found = [mocker.Mock(certificate_path=each.certificate, key_path=each.key) for each in credentials]
    keystore = mocker.patch.object(exposure_check, "keystore_of").return_value
    keystore.probe_credentials.return_value = found
    keystore.all_devices_are_revoked.return_value = False


def test_a_key_that_does_not_open_is_named_and_the_funnel_closes(
    mocker: MockerFixture, tmp_path: Path
) -> None:
    store = Keystore(tmp_path, "the right passphrase")
    store.adopt_or_create_authority(AuthorityProfile())
    store.adopt_or_issue_device("phone", DeviceProfile("phone"))
    run = mocker.patch.object(exposure_check, "run_script", side_effect=hears_the_proof)
    asked = mocker.patch.object(exposure_check, "check_from_outside")
    props = {
        **PROPS,
        "expectDevice": True,
        "keystore": str(tmp_path),
        "passphrase": "another passphrase",
        "stack": "home",
    }
    [kept] = store.probe_credentials()
    with pytest.raises(KeyFileError, match=f"The key {kept.key_path} cannot be read with"):
        check_or_close(props)
    assert verbs_of(run)[-1] == "close" and not asked.called


KEYSTORE = {"expectDevice": True, "keystore": "/keys", "passphrase": "secret"}


def test_a_keystore_with_nothing_to_ask_with_fails_and_closes(mocker: MockerFixture) -> None:
    """Its disk is not mounted, or this machine's clock is years ahead."""
    run = mocker.patch.object(exposure_check, "run_script", side_effect=hears_the_proof)
    asked = mocker.patch.object(exposure_check, "check_from_outside", return_value=["fine"])
    mocker.patch.object(OutsideProbe, "prepare")
    keystore_with(mocker)
    with pytest.raises(NoCredentialError, match="/keys holds no device's key .*; bring the keystore back"):
        check_or_close({**PROPS, **KEYSTORE})
    assert verbs_of(run) == ["close"] and not asked.called
    keystore_with(mocker, CREDENTIAL)
    assert check_or_close({**PROPS, **KEYSTORE})["results"] == ["fine"]
    assert asked.call_args.args[1] == [CREDENTIAL]


def test_an_owner_who_has_revoked_every_device_still_shares_links(
    mocker: MockerFixture, tmp_path: Path
) -> None:
    """Lost phones are revoked on the server while the config still names them."""
    store = Keystore(tmp_path, "the right passphrase")
    store.adopt_or_create_authority(AuthorityProfile())
    phone = store.adopt_or_issue_device("phone", DeviceProfile("phone"))
    laptop = store.adopt_or_issue_device("laptop", DeviceProfile("laptop"))
    mocker.patch.object(exposure_check, "run_script", side_effect=hears_the_proof)
    asked = mocker.patch.object(exposure_check, "check_from_outside", return_value=["fine"])
    mocker.patch.object(OutsideProbe, "prepare")
    props = {**PROPS, **KEYSTORE, "keystore": str(tmp_path), "stack": "home"}
    store.note_revocations([Revocation(phone.fingerprint, "phone", 0, by_hand=True)])
    assert check_or_close(props)["results"] == ["fine"]
    assert [each.certificate.stem for each in asked.call_args.args[1]] == ["laptop"]
    store.note_revocations([Revocation(laptop.fingerprint, "laptop", 0, by_hand=True)])
    assert check_or_close(props)["results"] == [
        "fine",
        "Not checked: that a device gets in, because all of them are revoked",
    ]
    assert asked.call_args.args[1] == []


@pytest.mark.parametrize(
    ("adopted", "said"), [(True, "its key is only on the device"), (False, "none is conf")]
)
def test_what_nobody_has_asked_is_said(mocker: MockerFixture, adopted: bool, said: str) -> None:
    mocker.patch.object(exposure_check, "run_script", side_effect=hears_the_proof)
    mocker.patch.object(exposure_check, "check_from_outside", return_value=["fine"])
    fine, unasked = check_or_close({**PROPS, "adopted": adopted})["results"]
    assert by_question(["GET / 403: a: b", unasked]) == {
        "GET / 403": "a: b",
        "Not checked": unasked[len("Not checked: ") :],
    }
    assert fine == "fine" and unasked.startswith("Not checked: that ") and said in unasked
