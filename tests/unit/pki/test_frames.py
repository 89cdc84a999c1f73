"""The secrets of frames: made, adopted, revoked, opened by another passphrase, and never plain on disk."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

import pytest

from pki import Keystore, KeystoreError, Revocation
from pki.frame_store import SECRET
from pki.listing import frames
from tests.unit.pki.facts import quick_keystore
from toolchain.paths import PROJECT


def test_a_secret_has_a_prefix_and_160_bits(store: Keystore) -> None:
    made = [store.adopt_or_make_frame(f"frame-{number}").secret for number in range(5)]
    assert len(set(made)) == 5
    assert all(SECRET.fullmatch(each) and len(each) - len("ixframe_") == 160 / 5 for each in made)


def test_the_form_is_the_one_that_the_edge_takes() -> None:
    text = (PROJECT / "server/caddy/frames.go").read_text()
    assert re.search(r'framePrefix\s*= "ixframe_"', text) and re.search(r"frameLetters\s*= 32", text)


def test_a_secret_is_adopted_and_lies_nowhere_plain(folder: Path, store: Keystore) -> None:
    made = store.adopt_or_make_frame("kitchen")
    assert made.fingerprint == hashlib.sha256(made.secret.encode()).hexdigest()
    assert made.secret not in repr(made)
    assert quick_keystore(folder).adopt_or_make_frame("kitchen") == made
    for path in folder.rglob("*"):
        assert path.is_dir() or made.secret.encode() not in path.read_bytes()
    path = folder / "frames/kitchen.secret"
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert list(frames(folder)) == [("kitchen", made.fingerprint)]


def test_one_that_was_revoked_never_comes_back(folder: Path, store: Keystore) -> None:
    made = store.adopt_or_make_frame("kitchen")
    content = (folder / "frames/kitchen.secret").read_bytes()
    without_passphrase = Keystore(folder)
    without_passphrase.revoke_frame("kitchen", "0" * 64)
    assert store.adopt_or_make_frame("kitchen") == made, "another secret was meant"
    without_passphrase.revoke_frame("kitchen", made.fingerprint)
    without_passphrase.revoke_frame("kitchen", made.fingerprint)
    assert store.revocations()[made.fingerprint].name == "kitchen"
    (folder / "frames/kitchen.secret").write_bytes(content)  # out of a backup, say
    assert store.adopt_or_make_frame("kitchen").secret != made.secret


def test_what_the_server_has_revoked_counts_here_as_well(store: Keystore) -> None:
    made = store.adopt_or_make_frame("kitchen")
    store.note_revocations([Revocation(made.fingerprint, "kitchen", 1, by_hand=True)])
    assert store.adopt_or_make_frame("kitchen") == made, "it stays out while the config names it"
    store.note_revocations([Revocation(made.fingerprint, "kitchen", 1)])
    assert store.adopt_or_make_frame("kitchen") != made


def test_whoever_left_the_config_while_nothing_was_exposed_is_revoked(store: Keystore) -> None:
    kitchen, hall = (store.adopt_or_make_frame(name) for name in ("kitchen", "hall"))
    store.revoke_all_but(["phone", "hall"])
    assert set(store.revocations()) == {kitchen.fingerprint}
    assert store.adopt_or_make_frame("hall") == hall


def test_two_frames_secrets_cannot_be_swapped(folder: Path, store: Keystore) -> None:
    for name in ("kitchen", "hall"):
        store.adopt_or_make_frame(name)
    os.replace(folder / "frames/kitchen.secret", folder / "frames/hall.secret")
    with pytest.raises(KeystoreError, match="hall.secret is damaged"):
        quick_keystore(folder).adopt_or_make_frame("hall")
    assert any(each.damage and "hall.secret" in each.sentence for each in quick_keystore(folder).inspect())


@pytest.mark.parametrize("content", [b"", b"x\n", b"0" * 64 + b"\n{}\n"])
def test_a_damaged_file_is_named_with_the_remedy(folder: Path, store: Keystore, content: bytes) -> None:
    store.adopt_or_make_frame("kitchen")
    path = folder / "frames/kitchen.secret"
    path.write_bytes(content)
    with pytest.raises(KeystoreError, match="kitchen.secret is damaged. .* makes a new secret"):
        quick_keystore(folder).adopt_or_make_frame("kitchen")
    path.unlink()
    assert SECRET.fullmatch(store.adopt_or_make_frame("kitchen").secret)


def test_another_passphrase_a_backup_and_a_purge_take_them_along(
    folder: Path, store: Keystore, tmp_path: Path
) -> None:
    made = store.adopt_or_make_frame("kitchen")
    other = "four words quite unlike"
    store.change_passphrase(other)
    assert store.inspect() == []
    assert quick_keystore(folder, passphrase=other).adopt_or_make_frame("kitchen") == made
    copy = quick_keystore(tmp_path / "copy", passphrase=other)
    copy.restore(store.backup())
    assert copy.adopt_or_make_frame("kitchen") == made
    copy.purge()
    assert not (tmp_path / "copy").exists()


def test_a_frame_needs_an_authority_first(tmp_path: Path) -> None:
    with pytest.raises(KeystoreError):
        quick_keystore(tmp_path / "empty").adopt_or_make_frame("kitchen")
