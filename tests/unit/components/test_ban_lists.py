"""A look at the sources of lists: what it finds stops a run or is told; the key stays where it belongs."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pulumi
import pytest

from components.config.lists import BanLists
from components.preflight import list_sources
from components.preflight.list_sources import Look, list_files, look_at_lists, look_now
from components.remote.remote_script import Server
from components.remote.ssh import SshError

LISTS = BanLists(
    (), only=False, database=None, database_days=45, networks=("/x",), networks_days=0, crowdsec=None
)
SERVER = Server("pi", 22, "root", "ssh-ed25519 AAAA", None)
ANSWER = "wrong /x is damaged: line 2 is no network\nnote /y is old.\nrubbish\nwrong\n\x1b[31mwrong /z\n"


def test_the_key_travels_in_a_file_of_roots_alone() -> None:
    assert list_files("networks /x\n", None) == list_files("networks /x\n", "")
    [conf, key] = list_files("crowdsec x\n", "geheim")
    assert (conf.mode, key.path, key.text, key.mode) == ("0644", "crowdsec.key", "geheim\n", "0600")


def test_a_look_is_read_as_words_and_nothing_else() -> None:
    with patch.object(list_sources, "run_script", return_value=ANSWER) as run:
        found = look_at_lists(SERVER, LISTS.lines(), "geheim")
    assert found == Look(
        ["banLists: /x is damaged: line 2 is no network.", "banLists: /z."], ["banLists: /y is old."]
    )
    _, command, text = run.call_args.args
    assert command == "sh -s -- look" and "geheim" not in command and "geheim" in text


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (ANSWER, ["banLists: /x is damaged: line 2 is no network.", "banLists: /z.", "banLists: /y is old."]),
        (
            SshError("It is off."),
            ["This run could not check the sources of banLists on the server: It is off."],
        ),
        ("", []),
    ],
)
def test_a_preview_tells_what_it_saw_or_that_it_saw_nothing(
    loop: asyncio.AbstractEventLoop, answer: str | Exception, told: list[str]
) -> None:
    async def looked() -> bool:
        key = pulumi.Output.secret("geheim")
        return bool(await look_now(replace(SERVER, stack_id="ours"), LISTS, key).future())

    with (
        patch.object(list_sources, "run_script", side_effect=[answer]) as run,
        patch.object(pulumi, "warn") as warn,
    ):
        assert loop.run_until_complete(looked()) is isinstance(answer, str)
    assert [call.args[0] for call in warn.call_args_list] == told
    assert run.call_args.args[1] == "sh -s -- look", "whoever may log in may look"


def test_without_a_key_file_nobody_looks_and_that_is_said(
    loop: asyncio.AbstractEventLoop, tmp_path: Path
) -> None:
    server = replace(SERVER, private_key_file=str(tmp_path / "none"))
    with patch.object(list_sources, "run_script") as run, patch.object(pulumi, "warn") as warn:
        assert not loop.run_until_complete(_looked(server))
    assert run.call_count == 0 and "are not checked" in warn.call_args.args[0]


async def _looked(server: Server) -> bool:
    return bool(await look_now(server, LISTS, None).future())
