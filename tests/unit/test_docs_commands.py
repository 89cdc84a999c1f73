"""Every command of every page is run by a test, or it is said why not."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from pki import AuthorityProfile, DeviceProfile
from tests.programs.test_docs_review import HERE
from tests.unit.documents import commands, name_of, pages, spoken_commands, words
from tests.unit.pki.facts import quick_keystore
from toolchain.paths import PROJECT

NOT_RUN = "not run: "
FIRST_TIME = "tests/server/test_operator_preview.py::test_what_an_owner_types_the_first_time"
BY_HAND = "tests/server/test_bans_command.py::test_a_ban_by_hand_holds_until_it_is_lifted"
OWNER = "tests/lab/test_owner.py::test_a_funnel_that_the_owner_has_closed_reads_so_and_stays_closed"
WHO = "tests/lab/test_links.py::test_a_link_is_opened_and_counted_and_what_opens_it_is_seen_nowhere"
PACKAGE_ADD = "tests/server/test_plugin.py::test_the_example_in_yaml_is_previewed"
BENCH = "not run: a benchmark, of minutes; `make bench` runs it"

PLACES = {
    # the first time
    "git clone ... && cd immich-exposure": "not run: the address is where you found this",
    "cp stacks/Pulumi.home.yaml.example stacks/Pulumi.home.yaml": FIRST_TIME,
    "pulumi install": FIRST_TIME,
    "pulumi login": "not run: it needs an account",
    "pulumi login --local": FIRST_TIME,
    "pulumi login s3://bucket?endpoint=...": "tests/server/test_backend_s3.py::"
    "test_two_people_and_two_stacks_in_one_store",
    "pulumi stack init home": FIRST_TIME,
    "pulumi stack init cabin --no-select": "tests/programs/test_operator_machine.py::"
    "test_a_stack_that_the_backend_does_not_know_is_made_and_not_selected",
    "pulumi config set --secret keystorePassphrase": FIRST_TIME,
    "pulumi config set --secret keystorePassphrase --stack cabin": FIRST_TIME,
    "pulumi config set --secret keystorePassphrase --stack home": FIRST_TIME,
    "pulumi config set --secret sudoPassword": "tests/lab/test_houses.py::test_up_exposes",
    "pulumi config set --secret notifyToken": "not run: the same as the other secrets",
    "pulumi preview": FIRST_TIME,
    "pulumi preview --diff": FIRST_TIME,
    "pulumi preview --diff --stack cabin": FIRST_TIME,
    "pulumi up": "tests/lab/test_main_job.py::test_up_exposes",
    "make handover DEVICE=phone-anna": "tests/programs/test_handover_command.py::"
    "test_a_phone_fetches_its_bundle_and_the_terminal_shows_the_password_then",
    "pulumi stack output frameSecrets --show-secrets": "tests/lab/test_small_clients.py::"
    "test_frames_read_until_they_are_taken_out",
    # the end
    "pulumi destroy": "tests/lab/test_main_job.py::test_destroy_leaves_the_server_as_it_was",
    "pulumi stack rm home": "not run: Pulumi's own; tests/faults/rows.py forgets a stack by force",
    # on the server
    "sudo immich-exposure status": OWNER,
    "sudo immich-exposure status --json": "tests/lab/test_owner.py::test_a_monitor_is_told_in_each_state",
    "sudo immich-exposure close": OWNER,
    "sudo immich-exposure open": OWNER,
    "immich-exposure close --help": "tests/programs/test_scripts_lan.py::test_help_only_explains",
    "sudo immich-exposure bans": BY_HAND,
    "sudo immich-exposure ban 203.0.113.9": BY_HAND,
    "sudo immich-exposure unban 203.0.113.9": BY_HAND,
    "sudo immich-exposure who": WHO,
    "sudo immich-exposure links": WHO,
    "make who": "tests/programs/test_operator_machine.py::test_a_report_of_the_server_is_fetched_and_shown",
    "make links": "tests/programs/test_operator_machine.py::test_a_report_of_the_server_is_fetched_and_shown",
    "make who ARGS=--html > who.html": "tests/unit/components/test_server_report.py::"
    "test_what_the_server_says_is_shown_as_words",
    "pulumi config set who true": "not run: the same as the other settings",
    "pulumi config set --secret immichApiKey": WHO,
    "sudo immich-exposure bans 203.0.113.9": "tests/server/test_ban_lists.py::"
    "test_the_command_says_who_is_on_a_list_and_what_lets_them_in",
    "sudo cscli bouncers add immich-exposure": "not run: CrowdSec's own",
    "pulumi config set --secret crowdsecKey": "not run: the same as the other secrets",
    "sudo immich-exposure guard": "tests/server/test_scripts_guard.py::test_for_people_it_says_what_it_saw",
    "sudo immich-exposure revoke frame-kitchen": "tests/lab/test_small_clients.py::"
    "test_frames_read_until_they_are_taken_out",
    "sudo immich-exposure revoke phone-anna": "tests/lab/test_fail_closed.py::"
    "test_a_device_that_was_revoked_on_the_server_stays_out",
    "sudo immich-exposure lan open": "tests/programs/test_scripts_lan.py::test_the_owner_opens_and_closes",
    "sudo immich-exposure lan close": "tests/programs/test_scripts_lan.py::test_the_owner_opens_and_closes",
    "sudo immich-exposure lan auto": "tests/programs/test_scripts_lan.py::"
    "test_the_owner_gives_it_back_to_the_funnel",
    "sudo immich-exposure forget-chapter": "tests/lab/test_adopt.py::"
    "test_the_leftovers_are_listed_and_then_removed",
    "sudo immich-exposure forget-chapter --yes": "tests/lab/test_adopt.py::"
    "test_the_leftovers_are_listed_and_then_removed",
    "sudo nixos-rebuild switch --upgrade": "not run: NixOS's own",
    # keys and operations
    "make keystore STACK=home ARGS=export keystore-2026-11-24.tar": "tests/unit/pki/test_commands.py::"
    "test_a_backup_brings_everything_back",
    "make keystore STACK=home ARGS=import keystore-2026-11-24.tar": "tests/unit/pki/test_commands.py::"
    "test_a_backup_brings_everything_back",
    "make keystore STACK=home ARGS=check": "tests/unit/pki/test_commands.py::"
    "test_check_finds_nothing_in_a_whole_keystore_and_changes_nothing",
    "make keystore STACK=home ARGS=passphrase": "tests/unit/pki/test_commands.py::"
    "test_another_passphrase_opens_all_and_the_old_one_nothing",
    "make nightly-check STACK=home": "tests/programs/test_operator_machine.py::"
    "test_the_only_stack_needs_no_name",
    "pulumi config get keystorePassphrase --stack home": "tests/programs/test_operator_machine.py::"
    "test_handover_without_a_readable_passphrase_says_which_is_wanted",
    "pulumi cancel --stack home": "tests/lab/test_fail_closed.py::"
    "test_whoever_never_comes_back_has_immich_at_home_in_the_morning",
    "git pull": "not run: git's own",
    # packages and rules
    "pulumi preview --policy-pack policy": "tests/server/test_policy_pack.py",
    "python -m pip wheel --no-deps --wheel-dir dist .": "tests/programs/test_package_wheel.py",
    "pulumi package add https://github.com/OWNER/immich-exposure/plugin@TAG": PACKAGE_ADD,
    "pulumi new https://github.com/OWNER/immich-exposure/tree/TAG/template": "tests/server/test_template.py",
    ".venv/bin/python -m pip install --no-deps --requirement policy/requirements.txt": "not run: "
    "the Makefile does it before the tests",
    # within the text of the pages in WHOLE
    "pulumi preview --refresh --expect-no-changes": "tests/lab/test_plan.py::test_one_device_alone",
    ".ci/workflows": "not run: `make nightly` does",
    "pulumi stack init cabin --secrets-provider awskms://...": "not run: it needs a key service",
    "make destroy": "tests/programs/test_operator_machine.py::"
    "test_several_stacks_are_listed_and_none_is_taken",
    "make nightly": "not run: it runs tests",
    "pulumi up --target '**phone-anna**' --target '**immich-sheets**' --target '**immich-devices**'": (
        "tests/lab/test_plan.py::test_one_device_alone"
    ),
    "pulumi destroy --preview-only --target '**NAME**' --target-dependents": "tests/lab/test_plan.py::"
    "test_what_would_go_with_a_part_is_shown_and_stays",
    "pulumi state delete --all": "tests/faults/rows.py::state_all_deleted",
    "pulumi state delete URN --target-dependents": "tests/faults/rows.py::state_resources_deleted",
    "pulumi stack rm": "not run: Pulumi's own, and the page warns of it",
    "pulumi package add": PACKAGE_ADD,
    "pulumi package add ../immich-exposure/plugin": PACKAGE_ADD,
    "pulumi package get-schema ./plugin": "tests/server/test_plugin.py::test_the_engine_gets_the_schema",
    "pulumi new ../immich-exposure/template": "tests/server/test_template.py::"
    "test_a_project_of_it_is_previewed",
    # for developers
    "make demo": "not run: tests/lab/test_main_job.py is the same story, as tests",
    "make setup": "not run: it has made what runs the tests",
    "make test": "not run: it runs the tests",
    ".venv/bin/python -m pytest tests/unit/test_config.py -k host_key": "tests/unit/test_config.py::"
    "test_a_host_key_is_taken_without_its_comment",
    "make lab-test ARGS=test_renewal.py": "tests/programs/test_parallel.py::"
    "test_a_word_chooses_a_file_a_house_or_a_row",
    "make lab-test ARGS=book": "tests/programs/test_parallel.py::test_a_word_chooses_a_file_a_house_or_a_row",
    "make faults ARGS=reboot": "tests/lab/test_faults.py::test_it_ends_right",
    "make walk SEED=7 STEPS=20": "tests/lab/test_walk.py::test_it_ends_right",
    ".venv/bin/python -m lab ssh -- sudo immich-exposure status": OWNER,
    ".venv/bin/python -m lab visit /share/labsharekey": "not run: `make pictures` does",
    ".venv/bin/python -m lab down": "tests/lab/test_bubble.py::"
    "test_two_labs_of_one_clone_live_at_once_and_leave_nothing",
    "make bench": BENCH,
    "python -m tests.bench.edge": BENCH,
    "python -m tests.bench.floods": BENCH,
    "python -m tests.bench.proxies": BENCH,
    "python -m tests.bench.devices": BENCH,
    "python -m lab bubble -- python -m tests.bench.scale": BENCH,
    "curl --unix-socket /run/immich-edge/admin.sock "
    "http://localhost/debug/pprof/profile?seconds=10 -o edge.pprof": BENCH,
    "go tool pprof -top -cum edge.pprof": BENCH,
}
"""By command: the test that runs it, or what it comes to; or why it is not run."""

OF_A_BUNDLE = (
    "openssl pkcs12 -in anna.p12 -nokeys -clcerts | openssl x509 -noout -fingerprint -sha256 -enddate"
)
_PLACES = {words(command): place for command, place in PLACES.items()}
_RUN_HERE = {words(command) for command in (*HERE, OF_A_BUNDLE)}


WHOLE = ("docs/review.md", "docs/environments.md", "docs/package.md")
"""Pages whose commands within the text are run as well."""


def commands_of(page: Path) -> list[tuple[str, ...]]:
    return [*commands(page), *(spoken_commands(page) if name_of(page) in WHOLE else ())]


@pytest.mark.parametrize("page", pages(), ids=name_of)
def test_every_command_is_run_by_a_test_or_it_is_said_why_not(page: Path) -> None:
    unknown = [" ".join(each) for each in commands_of(page) if _plain(each) not in _PLACES.keys() | _RUN_HERE]
    assert not unknown, (
        f"Say in PLACES of {Path(__file__).name} which test runs it, or why none does: {unknown}"
    )


def test_no_place_is_kept_for_a_command_that_no_page_has() -> None:
    found = {_plain(each) for page in pages() for each in commands_of(page)}
    assert {" ".join(each) for each in _PLACES.keys() - found} == set()


@pytest.mark.parametrize("place", sorted(set(PLACES.values())))
def test_each_test_that_is_named_is_there(place: str) -> None:
    if place.startswith(NOT_RUN):
        return
    path, _, name = place.partition("::")
    text = (PROJECT / path).read_text(encoding="utf-8")
    assert re.search(rf"^def {name or 'test_'}", text, re.M), place


def test_openssl_tells_fingerprint_and_end_of_a_bundle(tmp_path: Path) -> None:
    keystore = quick_keystore(tmp_path / "keystore")
    keystore.adopt_or_create_authority(AuthorityProfile())
    issued = keystore.adopt_or_issue_device("anna", DeviceProfile("anna"))
    shutil.copy(issued.bundle_path, tmp_path / "anna.p12")
    shown = subprocess.run(
        ["sh", "-c", OF_A_BUNDLE],
        cwd=tmp_path,
        input=f"{issued.bundle_password}\n",
        capture_output=True,
        text=True,
        start_new_session=True,  # without a terminal, openssl reads the password from standard input
        check=True,
    )
    fingerprint, end = shown.stdout.splitlines()
    assert fingerprint.partition("=")[2].replace(":", "").lower() == issued.fingerprint
    assert end.startswith("notAfter=")


def _plain(command: tuple[str, ...]) -> tuple[str, ...]:
    """Return a command as a table writes it: words that a shell has put together stand apart again."""
    return words(" ".join(command))
