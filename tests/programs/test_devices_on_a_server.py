"""Devices between config, keystore, state and server: who is out stays out, whichever of them forgets it.

The server is the pretend one of the scripts' tests; devices.sh and the keystore are the real ones.
"""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from components import device_list, device_withdrawal, frame_secret
from components.device_list import FRAME
from components.device_withdrawal import STAYS, STAYS_AS_FRAME
from components.devices.let_in import Authorized, missing_devices, wrongly_enrolled
from components.devices.report import report_of
from components.engine.operator_error import OperatorError
from components.remote.remote_script import Server, script_digest
from pki import (
    AuthorityProfile,
    DeviceCredential,
    DeviceProfile,
    Keystore,
    KeystoreError,
    Platform,
    Renewal,
    Revocation,
)
from pki.renewal_plan import plan_renewals
from tests.programs.harness import Machine
from tests.unit.components.conftest import quick_keystores

__all__ = ["quick_keystores"]

PASSPHRASE = "correct horse battery staple"
STACK, ID = "home", "ours"
LIST, WITHDRAWAL = device_list._Provider(), device_withdrawal._Provider()
SECRET = frame_secret._Provider()


class Home:
    """A server, a keystore, and what the engine has in its state of the two resources."""

    def __init__(self, folder: Path) -> None:
        self.machine = Machine(folder, "dash")
        self.keystore = folder / "keystore"
        self.state: dict[str, dict[str, Any]] = {}
        self.lines: list[str] = []
        self.store().adopt_or_create_authority(AuthorityProfile())
        assert self.machine.begin(stack=ID).status == 0

    def store(self) -> Keystore:
        return Keystore(self.keystore, PASSPHRASE, stack=STACK, kdf_rounds=1_000)

    def run_script(self, _server: Server, line: str, text: str, **_: Any) -> str:
        """Run a script on the pretend server, as ssh would."""
        done = self.machine.run_text(text, *shlex.split(line.partition(" -- ")[2]))
        self.lines += done.stderr.splitlines()
        if done.status != 0:
            raise OperatorError(done.error)
        return done.stdout

    def fingerprint(self, name: str) -> str:
        return self._credential(name).fingerprint

    def _credential(self, name: str) -> DeviceCredential:
        return self.store().adopt_or_issue_device(name, DeviceProfile(name, platform=Platform.LINUX))

    def props(self, **more: Any) -> dict[str, Any]:
        return {
            "host": "pi",
            "port": 22.0,
            "user": "admin",
            "hostKey": "ssh-ed25519 AAAA",
            "keystore": str(self.keystore),
            "stack": STACK,
            "stackId": ID,
            "takeOver": True,
            "text": script_digest("devices"),
            **more,
        }

    def up(self, *names: str, until: str = "end") -> list[str]:
        """Run the steps of `pulumi up` up to the withdrawal or the end, and return what they say."""
        self.lines = []
        found = wrongly_enrolled(self.let_in(), self.expected(*names))
        stays = {name: STAYS_AS_FRAME if name.startswith("frame-") else STAYS for name in names}
        props = self.props(mayComeIn=stays, toBeRevoked=found)
        self._step("withdrawal", WITHDRAWAL, props)
        if until == "withdrawal":
            return self.lines
        for name in set(self.state.get("list", {}).get("devices", {})) - set(names):
            fingerprint = self.state["list"]["devices"][name]["fingerprint"]
            if name.startswith("frame-"):
                self.secret("delete", name)
            else:
                self.store().revoke_device(name, fingerprint)
        devices = {name: self.entry(name) for name in names}
        self._step("list", LIST, self.props(devices=devices))
        return self.lines

    def let_in(self) -> list[str]:
        """Whom the server lets in, as a look at it says."""
        files = self.machine.files(self.machine.state / "devices")
        return [f"{fingerprint} {text.split()[1]}" for fingerprint, text in files.items()]

    def expected(self, *names: str) -> Authorized:
        """What the program knows when it begins."""
        renewal_plan = plan_renewals(
            self.keystore, names, authority=Renewal(30, 14), devices=Renewal(30, 14), now=datetime.now(UTC)
        )
        return Authorized(names, renewal_plan.devices_current, renewal_plan.revoked)

    def entry(self, name: str) -> dict[str, str]:
        if name.startswith("frame-"):
            made = self.secret("create", name)
            return {"fingerprint": made["fingerprint"], "until": FRAME, "before": "", "beforeUntil": ""}
        credential = self._credential(name)
        until = credential.not_after.isoformat()
        return {"fingerprint": credential.fingerprint, "until": until, "before": "", "beforeUntil": ""}

    def secret(self, verb: str, name: str) -> dict[str, Any]:
        """Make a frame's secret, or take it away, as the engine does; return the outputs."""
        props = {"keystore": str(self.keystore), "passphrase": PASSPHRASE, "stack": STACK, "frame": name}
        if verb == "create":
            self.state[name] = SECRET.create({**props, "authority": "a"}).outs or {}
        else:
            SECRET.delete("id", self.state[name])
        return self.state[name]

    def _step(self, name: str, provider: Any, props: dict[str, Any]) -> None:
        olds = self.state.get(name)
        if olds is None:
            self.state[name] = provider.create(props).outs
        elif provider.diff("id", olds, props).changes:
            self.state[name] = provider.update("id", olds, props).outs

    def destroy(self) -> None:
        """Take all back; the keystore stays."""
        LIST.delete("id", self.state["list"])
        assert self.machine.run("state", "remove").status == 0
        self.state = {}
        assert self.machine.begin(stack=ID).status == 0

    @property
    def inside(self) -> set[str]:
        """The names of who may come in."""
        files = self.machine.files(self.machine.state / "devices")
        return {content.split()[1] for content in files.values()}

    @property
    def out(self) -> list[str]:
        """What is said of those that are named and not let in."""
        out: list[str] = self.state["list"]["out"]
        return out


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    home = Home(tmp_path)
    # with a low work factor, as everything else here
    monkeypatch.setattr(frame_secret, "keystore_of", lambda props: home.store())
    for module in (device_list, device_withdrawal):
        monkeypatch.setattr(module, "run_script", home.run_script)
    return home


GONE = "phone is revoked: its certificate is never accepted again"


def test_devices_come_and_go_by_the_list(home: Home) -> None:
    assert set(home.up("phone", "laptop")) == {"Device phone is enrolled", "Device laptop is enrolled"}
    assert home.inside == {"phone", "laptop"} and home.out == []
    assert home.up("phone", "laptop") == []
    assert home.up("laptop") == [GONE]
    assert home.inside == {"laptop"}


def test_who_is_not_named_is_out_before_anything_else(home: Home) -> None:
    """Nothing after the first step is needed: it may fail, be cut off or be killed."""
    home.up("phone", "laptop")
    assert home.up("laptop", until="withdrawal") == [GONE]
    assert home.inside == {"laptop"}


@pytest.mark.parametrize("keystore", ["missing", "damaged", "another's", "unreadable"])
def test_no_keystore_is_needed_for_it(home: Home, keystore: str) -> None:
    home.up("phone", "laptop")
    if keystore == "unreadable":
        # What this gets is an OSError, as from a drive that fails or a folder that is root's.
        home.keystore = home.keystore.with_name("k" * 300)
    elif keystore == "missing":
        home.keystore.rename(home.keystore.with_name("elsewhere"))
    elif keystore == "damaged":
        (home.keystore / "keystore.json").write_text("{")
    else:
        shutil.rmtree(home.keystore)
        other = Keystore(home.keystore, PASSPHRASE, stack="other", kdf_rounds=1_000)
        other.adopt_or_create_authority(AuthorityProfile())
    assert home.up("laptop", until="withdrawal") == [GONE]
    assert home.inside == {"laptop"}


def test_a_device_of_the_same_name_gets_another_certificate(home: Home) -> None:
    """Also when the run that withdrew it failed before it came to the keystore."""
    home.up("phone")
    lost = home.fingerprint("phone")
    home.up(until="withdrawal")
    home.up("phone")
    assert home.fingerprint("phone") != lost
    assert home.inside == {"phone"} and home.out == []
    assert lost not in home.machine.files(home.machine.state / "devices")


def test_destroy_revokes_nobody_and_forgets_nobody_revoked(home: Home) -> None:
    home.up("phone", "laptop")
    lost, laptop = home.fingerprint("phone"), home.fingerprint("laptop")
    home.up("laptop", until="withdrawal")
    home.destroy()
    home.up("phone", "laptop")
    assert home.inside == {"phone", "laptop"}
    assert home.fingerprint("laptop") == laptop, "it must not be touched"
    assert home.fingerprint("phone") != lost


def forget_server(home: Home) -> None:
    """It was set up anew."""
    shutil.rmtree(home.machine.state)
    home.machine.begin(stack=ID)


def forget_keystore(home: Home) -> None:
    """A backup from before the revocation was imported."""
    shutil.rmtree(home.keystore)
    shutil.copytree(home.keystore.with_name("backup"), home.keystore)


def forget_state(home: Home) -> None:
    home.state = {}


FORGETTING = (forget_server, forget_keystore, forget_state)


@pytest.mark.parametrize("remembers", FORGETTING)
def test_one_of_three_is_enough_to_remember(home: Home, remembers: Callable[[Home], None]) -> None:
    """Server, keystore and state know who is out; two of them are set back to before."""
    home.up("phone", "laptop")
    shutil.copytree(home.keystore, home.keystore.with_name("backup"))
    lost = home.fingerprint("phone")
    home.up("laptop")
    for forget in FORGETTING:
        if forget is not remembers:
            forget(home)
    home.up("phone", "laptop")
    assert lost not in home.machine.files(home.machine.state / "devices")
    home.up("phone", "laptop")
    assert home.inside == {"phone", "laptop"} and home.out == [], "the next run gives it another one"
    assert home.fingerprint("phone") != lost


# Set back on the server alone, with all that was noted down there


def back_up(home: Home) -> Path:
    return shutil.copytree(home.machine.state, home.machine.state.with_name("server.before"))


def set_back(home: Home, backup: Path) -> None:
    shutil.rmtree(home.machine.state)
    shutil.copytree(backup, home.machine.state)


def test_a_server_that_was_set_back_lets_no_lost_device_in(home: Home) -> None:
    home.up("phone", "laptop")
    backup = back_up(home)
    home.up("laptop")
    set_back(home, backup)
    assert home.inside == {"phone", "laptop"}
    assert home.up("laptop", until="withdrawal") == [GONE]
    assert home.inside == {"laptop"}
    assert home.up("laptop", until="withdrawal") == []


def test_nor_does_a_state_that_was_set_back(home: Home) -> None:
    """It is of before the device came, which is lost by now, and is in no config."""
    home.up("laptop")
    state = dict(home.state)
    home.up("phone", "laptop")
    home.state = state
    assert home.up("laptop", until="withdrawal") == [GONE]
    assert home.inside == {"laptop"}


def test_a_lost_certificate_stays_out_where_its_name_has_another_one(home: Home) -> None:
    home.up("phone")
    backup, lost = back_up(home), home.fingerprint("phone")
    home.up()
    home.up("phone")
    set_back(home, backup)
    said = home.up("phone", until="withdrawal")
    assert said == ["A revoked certificate of phone had come back and is revoked again"]
    assert home.inside == set()
    (sentence,) = missing_devices(home.let_in(), (), home.expected("phone"))
    assert sentence == "The server has not enrolled the present certificate of phone; up enrols it."
    assert lost in home.machine.files(home.machine.state / "revoked")


def test_what_was_revoked_by_hand_is_known_to_be_so_again(home: Home) -> None:
    home.up("phone", "laptop")
    backup = back_up(home)
    assert home.machine.run("devices", "revoke", "phone").status == 0
    home.up("phone", "laptop", "tablet")
    set_back(home, backup)
    home.up("phone", "laptop", "tablet", until="withdrawal")
    assert home.inside == {"laptop"}
    assert missing_devices(home.let_in(), (), home.expected("phone", "laptop", "tablet")) == [
        "The server has not enrolled the present certificate of tablet; up enrols it."
    ]
    revoked = home.machine.files(home.machine.state / "revoked")
    assert "by hand" in revoked[home.fingerprint("phone")]


def test_who_stays_is_found_by_nobody(home: Home) -> None:
    home.up("phone", "laptop")
    expected = home.expected("phone", "laptop")
    assert wrongly_enrolled(home.let_in(), expected) == {}
    assert missing_devices(home.let_in(), (), expected) == []
    assert home.expected("tablet").current == {}, "it comes with this very run"


def test_a_file_put_there_by_hand_is_found_whatever_it_says() -> None:
    (words,) = wrongly_enrolled([f"{'ab' * 32} \x1b[2J friend"], Authorized(["phone"])).values()
    assert words == "A device is enrolled on the server, but the config does not name it"


# By hand, on the server


def test_what_was_revoked_by_hand_stays_out_and_is_told(home: Home) -> None:
    home.up("phone", "laptop")
    assert home.machine.run("devices", "revoke", "phone").status == 0
    home.up("phone", "laptop", "tablet")
    assert home.inside == {"laptop", "tablet"}
    (sentence,) = home.out
    assert sentence.startswith("phone was revoked on the server on 20") and "`revoked: true`" in sentence


def test_destroy_hears_of_who_was_revoked_by_hand(home: Home) -> None:
    """No up has, and server and state are about to forget."""
    home.up("phone", "laptop")
    assert home.machine.run("devices", "revoke", "phone").status == 0
    home.destroy()
    home.up("phone", "laptop")
    assert home.inside == {"laptop"}
    assert "phone was revoked on the server" in home.out[0]


def test_destroy_of_a_stack_that_was_taken_over_hears_nothing(home: Home) -> None:
    home.up("phone")
    assert home.machine.begin("phone", stack="theirs", take_over="yes").status == 0
    LIST.delete("id", home.state["list"])
    assert home.inside == {"phone"}


def test_it_stays_out_over_a_destroy_and_until_it_was_taken_out(home: Home) -> None:
    home.up("phone", "laptop")
    lost = home.fingerprint("phone")
    home.machine.run("devices", "revoke", "phone")
    home.up("phone", "laptop", "tablet")
    home.destroy()
    home.up("phone", "laptop", "tablet")
    assert home.inside == {"laptop", "tablet"} and len(home.out) == 1
    home.up("laptop", "tablet")
    home.up("phone", "laptop", "tablet")
    assert home.inside == {"phone", "laptop", "tablet"} and home.out == []
    assert home.fingerprint("phone") != lost


# Taken over


def test_a_revoked_certificate_is_not_taken_over_again(home: Home) -> None:
    """One of an exposure that was made by hand: the keystore has neither it nor its key."""
    home.store().note_revocations([Revocation("ab" * 32, "ben", 86400)])
    devices = {"ben": {"fingerprint": "ab" * 32, "until": "2036-11-21T00:00:00+00:00"}}
    home._step("list", LIST, home.props(devices=devices))
    assert home.inside == set()
    (sentence,) = home.out
    assert sentence.startswith("The certificate of ben was revoked on 1970-01-02 and is never accepted again")
    assert "remove it there and name it in `devices`" in sentence


# What the keystore keeps


def test_the_keystore_never_forgets_and_tells_damage(home: Home) -> None:
    store = home.store()
    first = Revocation("ab" * 32, "phone", 86400, by_hand=True)
    store.note_revocations([first])
    store.note_revocations([Revocation("ab" * 32, "phone", 172800)])
    store.note_revocations([first])
    assert store.revocations() == {"ab" * 32: Revocation("ab" * 32, "phone", 172800)}
    (home.keystore / "revoked.json").write_text("[" * 100_000)
    with pytest.raises(KeystoreError, match=r"revoked.json is damaged. Restore it from a backup."):
        store.revocations()


def test_without_a_keystore_nothing_is_noted_down(tmp_path: Path) -> None:
    Keystore(tmp_path / "none", stack=STACK).note_revocations([Revocation("ab" * 32, "phone", 1)])
    assert not (tmp_path / "none").exists()


# What the engine is told


def test_another_way_to_the_server_changes_nobody(home: Home) -> None:
    home.up("phone")
    before = len(home.machine.commands())
    moved = home.props(devices={"phone": home.entry("phone")}, host="pi-2")
    assert LIST.diff("id", home.state["list"], moved).changes
    outs = LIST.update("id", home.state["list"], moved).outs or {}
    assert outs["host"] == "pi-2" and outs["out"] == []
    assert len(home.machine.commands()) == before


@pytest.mark.parametrize("answer", ["", "Welcome!", "[]", '{"devices":[]}', '{"devices":[{}],"revoked":[]}'])
def test_an_answer_that_is_none_is_told(answer: str) -> None:
    with pytest.raises(OperatorError, match="its devices is not JSON"):
        report_of(answer)


def test_what_a_login_prints_is_passed_over() -> None:
    assert report_of('Welcome!\n{"devices":[],"revoked":[],"refused":["ab"]}\n').refused == ("ab",)


# Frames, which show a secret in place of a certificate


def test_a_frame_comes_and_goes_by_the_same_list(home: Home) -> None:
    assert set(home.up("phone", "frame-hall")) == {
        "Device phone is enrolled",
        "Frame frame-hall is enrolled: it may read photos and albums",
    }
    lost = home.state["frame-hall"]["secret"]
    assert home.up("phone", "frame-hall") == [] and home.out == []
    assert home.up("phone", until="withdrawal") == [GONE_FRAME]
    assert home.inside == {"phone"}, "the first step is enough"
    home.up("phone", "frame-hall")
    assert home.inside == {"phone", "frame-hall"} and home.state["frame-hall"]["secret"] != lost
    home.up("phone")
    assert len(home.store().revocations()) == 2


GONE_FRAME = "frame-hall is revoked: its secret is never accepted again"


def test_a_frame_that_was_revoked_by_hand_stays_out_and_is_told(home: Home) -> None:
    home.up("frame-hall", "phone")
    lost = home.state["frame-hall"]["secret"]
    assert home.machine.run("devices", "revoke", "frame-hall").status == 0
    home.up("frame-hall", "phone", "laptop")
    assert home.inside == {"phone", "laptop"}
    [said] = home.out
    assert said.startswith("frame-hall was revoked on the server on ") and "remove it there" in said
    home.up("phone")
    home.up("frame-hall", "phone")
    assert home.inside == {"phone", "frame-hall"} and home.state["frame-hall"]["secret"] != lost


def test_destroy_revokes_no_frame(home: Home) -> None:
    home.up("frame-hall")
    made = home.state["frame-hall"]["secret"]
    home.destroy()
    home.up("frame-hall")
    assert home.inside == {"frame-hall"} and home.state["frame-hall"]["secret"] == made


def test_another_authority_or_passphrase_is_no_reason_for_another_secret(home: Home) -> None:
    home.up("frame-hall")
    olds = home.state["frame-hall"]
    news = {**olds, "authority": "b", "passphrase": "another", "secret": None, "fingerprint": None}
    assert not SECRET.diff("id", olds, news).changes
    assert SECRET.diff("id", olds, {**news, "keystore": "elsewhere"}).changes
