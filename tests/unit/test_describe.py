"""The comment on a pull request: one readable case a folder, and what no pull request can make of it.

`python -m tests.unit.test_describe` rewrites the comments of the cases.
"""

from __future__ import annotations

import asyncio
import copy
import functools
import hashlib
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from unittest.mock import patch

import pytest

from components.config import stack_settings
from components.config.stack_file import uncertain
from components.describe.checkout_changes import AREAS, changed_files
from components.describe.comment import LONG_AGO, Checkouts, Comment, describe, main, version_of
from components.describe.markdown import COMMENT_LIMIT, block, code, cut, prose
from toolchain.paths import PROJECT

CASES = Path(__file__).with_name("describe")
NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
LINKS = "https://github.com/family/photos/pull/7/files"
PLAIN = CASES / "03-nothing-changes"


@pytest.fixture(scope="module", autouse=True)
def each_project_is_read_once() -> Iterator[None]:
    """A Pulumi.yaml has hundreds of lines, and nearly all cases have the same one."""
    read = functools.cache(stack_settings.project_defaults)
    with patch("components.describe.comment.project_defaults", lambda text: copy.deepcopy(read(text))):
        yield


def cases() -> list[Path]:
    return sorted(path for path in CASES.iterdir() if path.is_dir())


def comment_on(old: Path, new: Path, checkouts: Checkouts | None = None, stack: str = "home") -> Comment:
    return describe(
        version_of(old, stack, now=LONG_AGO), version_of(new, stack, now=NOW), stack, checkouts, LINKS
    )


def told(case: Path) -> str:
    """Return a case's comment, with the version of the module, which any change of it changes, left out."""
    text = comment_on(case / "old.yaml", case / "new.yaml").text
    return re.sub(r"\b(module|Module) [0-9a-f]{12}\b", r"\1 VERSION", text)


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_the_comment_is_the_one_in_the_folder(case: Path) -> None:
    assert told(case) == (case / "comment.md").read_text(encoding="utf-8")


def test_a_case_shows_no_secret_and_none_is_asked_for() -> None:
    """Nothing opens a connection, a file that a setting names, or a keystore."""
    opened: list[str] = []
    real = os.open

    def watched(path: str, *rest: int) -> int:
        opened.append(str(path))
        return real(path, *rest)

    with patch("os.open", watched), patch.object(socket, "socket", side_effect=AssertionError("a socket")):
        for case in cases():
            text = told(case)
            assert "v1:" not in text and "a-topic-nobody-guesses" not in text
    assert not [path for path in opened if "keystore" in path or "/mnt" in path]


@pytest.mark.parametrize("name", ["passwd", "folder"])
def test_a_stack_file_that_is_a_link_is_not_followed(tmp_path: Path, name: str) -> None:
    """It could lead to what the machine that writes the comment keeps secret."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "passwd").write_text("config: {immich-exposure:host: a-secret}\n")
    (tmp_path / "Pulumi.home.yaml").symlink_to(tmp_path / name)
    comment = comment_on(PLAIN / "old.yaml", tmp_path / "Pulumi.home.yaml")
    assert comment.refused and "not a plain file" in comment.text and "a-secret" not in comment.text


@pytest.mark.parametrize(
    ("content", "where"),
    [
        (b"config:\n  immich-exposure:host: \xff\n", "line 2: it is not text in UTF-8"),
        (b"config:\n\t- x\n", "line 2, column 1"),
        (b"- config\n", "must be a group of settings"),
        (b"config: [1]\n", "`config` must be a group"),
        (b"config: &a {b: *a}\n", "line 1, column 16: an alias"),
        (b"a: &a [x, x]\nb: &b [*a, *a]\n", "line 2, column 8: an alias"),
        (b"[" * 1200, "nested too deeply"),
        (b"config: !!python/object/apply:os.system [id]\n", "line 1, column 9: a tag (!)"),
        (b"config: {immich-exposure:uploads: !!bool yes}\n", "line 1, column 35: a tag (!)"),
        (b"config:\n  !!merge x: {immich-exposure:leaseHours: 48}\n", "line 2, column 3: a tag (!)"),
        (b"config: {<<: {immich-exposure:leaseHours: 48}}\n", "line 1, column 10: a merge key (<<)"),
        (b"config: {}\n---\nconfig: {}\n", "line 2, column 1"),
        (b"#" * ((1 << 20) + 1), "bytes"),
        (b"config: {immich-exposure:a: {b: 1, b: 2}}\n", "b is set a second time"),
    ],
)
def test_a_file_that_does_not_parse_is_told_with_its_place(
    tmp_path: Path, content: bytes, where: str
) -> None:
    file = tmp_path / "Pulumi.home.yaml"
    file.write_bytes(content)
    comment = comment_on(PLAIN / "old.yaml", file)
    assert comment.refused and "cannot be read" in comment.text
    assert where in comment.text, comment.text


def test_the_file_is_read_as_the_engine_reads_it(tmp_path: Path) -> None:
    """As seen with `pulumi config --json`: `yes` is text, `22:30` is text, `010` is eight."""
    file = tmp_path / "Pulumi.home.yaml"
    file.write_text((PLAIN / "old.yaml").read_text() + "  immich-exposure:uploads: yes\n")
    assert "uploads = 'yes': must be true or false" in comment_on(PLAIN / "old.yaml", file).text
    file.write_text(
        (PLAIN / "old.yaml").read_text() + '  immich-exposure:proxyPort: "8444"\n  sshPort: 023\n'
    )
    text = comment_on(PLAIN / "old.yaml", file).text
    assert "`8443` → `8444`" in text and "SSH port: `22` → `19`" in text


@pytest.mark.parametrize("other", ["uploads", "immich-exposure:config:uploads"])
def test_two_spellings_of_one_setting_are_refused(tmp_path: Path, other: str) -> None:
    """The engine keeps settings in a map without an order, so that either of the two may count."""
    file = tmp_path / "Pulumi.home.yaml"
    both = f"  immich-exposure:uploads: true\n  {other}: false\n"
    file.write_text((PLAIN / "old.yaml").read_text() + both)
    comment = comment_on(PLAIN / "old.yaml", file)
    assert comment.refused and f"{other} is the same setting as immich-exposure:uploads" in comment.text
    assert [key for key, _ in uncertain(file, "immich-exposure", "immich-exposure")] == [other]


@pytest.mark.parametrize("more", ["environment: [evil]\n", "  immich-exposure:uploads: {secure: 'v1:a:b'}\n"])
def test_what_cannot_be_read_is_not_said_to_be_unchanged(tmp_path: Path, more: str) -> None:
    file = tmp_path / "Pulumi.home.yaml"
    file.write_text((PLAIN / "old.yaml").read_text() + more)
    for old, new in ((PLAIN / "old.yaml", file), (file, PLAIN / "old.yaml")):
        text = comment_on(old, new).text
        assert "The settings change nothing" not in text and "### Not looked at" in text
    assert "Nothing that can be read here changes" in text or "shown in full" in text


def test_that_several_settings_can_be_read_now_is_said_once(tmp_path: Path) -> None:
    plain, secret = tmp_path / "plain.yaml", tmp_path / "secret.yaml"
    begin = (PLAIN / "old.yaml").read_text()
    settings = {"leaseHours": 5, "guard": "false"}
    plain.write_text(
        begin + "".join(f"  immich-exposure:{key}: {value}\n" for key, value in settings.items())
    )
    secret.write_text(begin + "".join(f"  immich-exposure:{key}: {{secure: 'v1:a:b'}}\n" for key in settings))
    text = comment_on(secret, plain).text
    assert "5 hours" in text and "guard: false" in text
    assert text.count("shown in full") == 1


def test_an_encrypted_setting_is_not_told_as_its_default(tmp_path: Path) -> None:
    plain, secret = tmp_path / "plain.yaml", tmp_path / "secret.yaml"
    begin = (PLAIN / "old.yaml").read_text()
    plain.write_text(begin + "  immich-exposure:sshPort: 2222\n  immich-exposure:graceDays: 9\n")
    hidden = (
        "  immich-exposure:sshPort: {secure: 'v1:a:b'}\n  immich-exposure:graceDays: {secure: 'v1:a:b'}\n"
    )
    secret.write_text(begin + hidden)
    for old, new in ((plain, secret), (secret, plain)):
        text = comment_on(old, new).text
        assert "2222" not in text and "→" not in text and "**`graceDays`, `sshPort`**, encrypted" in text


def test_a_value_that_is_nested_too_deeply_is_a_wrong_one(tmp_path: Path) -> None:
    file = tmp_path / "Pulumi.home.yaml"
    nested = f"  immich-exposure:frames: '{'[' * 100_000}'\n"
    file.write_text((PLAIN / "old.yaml").read_text() + nested)
    assert "must be a list" in comment_on(PLAIN / "old.yaml", file).text


def test_defaults_of_the_project_count_for_every_stack(tmp_path: Path) -> None:
    """A change of Pulumi.yaml alone can make uploads public."""
    shutil.copy(PROJECT / "Pulumi.yaml", tmp_path)
    file = tmp_path / "Pulumi.yaml"
    text = file.read_text().replace(
        "uploads:\n    type: boolean\n    default: false", "uploads:\n    default: true"
    )
    file.write_text(text)
    new = version_of(PLAIN / "old.yaml", "home", now=NOW, project=tmp_path)
    old = version_of(PLAIN / "old.yaml", "home", now=LONG_AGO)
    assert "More becomes public" in describe(old, new, "home").text


# Two checkouts


@pytest.fixture
def checkouts(tmp_path: Path) -> Checkouts:
    """Two of this project's, with what a comment reads of them."""
    for name in ("old", "new"):
        for part in ("server", "stacks", ".github", "components"):
            shutil.copytree(
                PROJECT / part, tmp_path / name / part, ignore=shutil.ignore_patterns("__pycache__")
            )
        shutil.copy(PROJECT / "Pulumi.yaml", tmp_path / name)
    return Checkouts(tmp_path / "old", tmp_path / "new")


def comment_of(checkouts: Checkouts) -> str:
    stack = "stacks/Pulumi.lab.yaml"
    return comment_on(checkouts.old / stack, checkouts.new / stack, checkouts, "lab").text


def test_equal_checkouts_change_nothing(checkouts: Checkouts) -> None:
    text = comment_of(checkouts)
    assert (
        "The settings change nothing" in text
        and "### Files" not in text
        and "server is rebuilt.**" not in text
    )


def test_another_script_rebuilds_the_server_and_is_linked(checkouts: Checkouts) -> None:
    path = "server/scripts/funnel.sh"
    with (checkouts.new / path).open("a") as file:
        file.write("# more\n")
    text = comment_of(checkouts)
    assert "**The server is rebuilt.**" in text and "Caddy is not compiled again" in text
    anchor = hashlib.sha256(path.encode()).hexdigest()
    assert f"| runs as root on the server | [`{path}`]({LINKS}#diff-{anchor}) |" in text


def test_another_source_of_the_edge_compiles_it(checkouts: Checkouts) -> None:
    with (checkouts.new / "server/caddy/main.go").open("a") as file:
        file.write("// more\n")
    assert "A new Caddy is compiled on the server" in comment_of(checkouts).partition("<details>")[0]


def test_a_workflow_is_named_as_what_runs_by_itself(checkouts: Checkouts) -> None:
    (checkouts.new / ".github/workflows/evil.yml").write_text("on: push\n")
    assert "edits what runs automatically with the rights of this repository" in comment_of(checkouts)


def test_a_row_more_of_the_surface_is_told(checkouts: Checkouts) -> None:
    with (checkouts.new / "server/surface.toml").open("a") as file:
        file.write(
            '\n[[rows]]\nfeature = "pages"\nmethods = ["GET"]\npath = "/api/users/me"\n'
            'why = "-"\nevidence = "-"\n'
        )
    text = comment_of(checkouts)
    assert "- new: `GET /api/users/me, pattern /api/users/me` (`pages`)" in text
    for unreadable in ("not TOML", f"a = {'[' * 5000}"):
        (checkouts.new / "server/surface.toml").write_text(unreadable)
        assert "what strangers would reach is unknown" in comment_of(checkouts)


def test_nothing_hides_in_a_folder_that_is_passed_over(checkouts: Checkouts) -> None:
    for folder in ("components/.git", "components/keystore", "components/__pycache__"):
        (checkouts.new / folder).mkdir(parents=True)
        (checkouts.new / folder / "x.py").write_text("evil\n")
    (checkouts.old / "components/__pycache__").mkdir()
    (checkouts.old / "components/__pycache__/ours.pyc").write_text("made by running it\n")
    named = [change.path for change in changed_files(checkouts.old, checkouts.new)]
    assert sorted(named) == [
        "components/.git/x.py",
        "components/__pycache__/x.py",
        "components/keystore/x.py",
    ]


@pytest.mark.parametrize("name", [".venv", ".toolchain"])
def test_what_is_installed_is_not_compared_and_that_is_said(checkouts: Checkouts, name: str) -> None:
    """Git holds such a folder too, if somebody adds it by force, and Python runs what is in it."""
    (checkouts.old / ".venv").mkdir()
    assert "### Files" not in comment_of(checkouts)
    site = checkouts.new / name / "lib/site-packages"
    site.mkdir(parents=True)
    (site / "sitecustomize.py").write_text("evil\n")
    text = comment_of(checkouts)
    assert f"**`{name}` was not compared.**" in text and "site-packages" not in text
    shutil.rmtree(checkouts.new / name)
    (checkouts.new / name).symlink_to("evil")
    assert f"**`{name}` was not compared.**" in comment_of(checkouts)


@pytest.mark.parametrize("path", ["yaml.py", "pulumi/__init__.py", "Pulumi.json", "plugin/__main__.py"])
def test_whatever_nobody_knows_is_the_program(checkouts: Checkouts, path: str) -> None:
    """Python imports it before what is installed; the engine reads Pulumi.json before Pulumi.yaml."""
    (checkouts.new / path).parent.mkdir(exist_ok=True)
    (checkouts.new / path).write_text("evil\n")
    assert "**The program itself changes.**" in comment_of(checkouts)


def test_every_file_of_this_project_is_told_for_what_it_is() -> None:
    """None of them is taken for the program because nobody has named it."""
    names = subprocess.run(["git", "ls-files"], cwd=PROJECT, capture_output=True, text=True).stdout
    unknown = [name for name in names.splitlines() if not name.startswith(tuple(path for path, _ in AREAS))]
    assert unknown == []


def test_a_link_in_the_module_is_not_followed(checkouts: Checkouts) -> None:
    caddyfile = checkouts.new / "server/Caddyfile"
    caddyfile.unlink()
    caddyfile.symlink_to("/dev/zero")
    text = comment_of(checkouts)
    assert "the module's files, which cannot be read here" in text and "(changed, a link)" in text


def test_a_name_of_a_file_is_no_markdown(checkouts: Checkouts) -> None:
    (checkouts.new / "stacks/`|** [x](y) @all <b>.md").write_text("")
    (line,) = [line for line in comment_of(checkouts).splitlines() if line.startswith("| settings |")]
    assert line.startswith("| settings | [``stacks/`\\|** [x](y) @all <b>.md``](https://")


# PublicSurface


@pytest.mark.parametrize("text", ["`", "``a`", "a\nb", "\x1b[31mred", "‮evil", " ", "", "a" * 500])
def test_code_is_one_span_whatever_it_holds(text: str) -> None:
    span = code(text)
    fence = re.match(r"`+", span)
    assert fence and "\n" not in span and "\x1b" not in span and "‮" not in span
    inside = span[len(fence[0]) : -len(fence[0])]
    assert span.endswith(fence[0]) and fence[0] not in inside.split(" ")[0] + " " and len(span) < 220
    assert max((len(run) for run in re.findall(r"`+", inside)), default=0) < len(fence[0])


def test_a_block_is_one_block_whatever_it_holds() -> None:
    lines = block(["````", "# heading"]).splitlines()
    assert lines[0] == "`````text" and lines[-1] == "`````"


def test_prose_means_nothing_outside_of_its_code() -> None:
    assert prose("a *b* <i> @x `*c*`") == "a \\*b\\* &lt;i&gt; @&#8203;x `*c*`"
    assert prose("x\n\n## y") == "x ## y"
    assert prose("https://a.b www.c.d") == "https:&#8203;//a.b www&#8203;.c.d"


@pytest.mark.parametrize(
    "text", ["```<b>`", "``<b>`", "`<b>``", "`a```<b>`", "```<b>` @x `y`", "`<b>", "\\`<b>`x`"]
)
def test_what_prose_takes_for_code_is_code_to_markdown(text: str) -> None:
    """A run of backticks ends at one of the same length alone (CommonMark 6.1)."""
    shown = prose(text).replace(r"\\", "")
    outside = re.sub(r"(?<![\\`])(`+)(?!`).*?(?<!`)\1(?!`)", "", shown)
    assert "<" not in outside and "@x" not in outside


def test_no_line_of_a_block_is_somebody_elses() -> None:
    assert block(["a\n# b\u2028c"]).splitlines() == ["```text", "a # b c", "```"]


def test_a_long_comment_is_cut_and_says_so() -> None:
    text = cut("```text\n" + "x\n" * COMMENT_LIMIT)
    assert len(text) < COMMENT_LIMIT + 200 and text.count("```") == 2
    assert text.endswith("**Cut off here: the change is too long for a comment. Read the diff.**\n")


def test_a_cut_hides_its_own_sentence_in_no_fold() -> None:
    text = cut("<details>\n" + "x\n" * COMMENT_LIMIT)
    assert text.index("</details>") < text.index("**Cut off here")


def test_a_flood_of_encrypted_keys_is_refused_and_pushes_nothing_out(
    tmp_path: Path, checkouts: Checkouts
) -> None:
    """A comment ends at some length, and whoever could fill it would leave out the rest."""
    file = tmp_path / "Pulumi.home.yaml"
    more = "".join(f"  immich-exposure:x{index}{'y' * 150}: {{secure: 'v1:a:b'}}\n" for index in range(1000))
    environments = "".join(f"  - e{index}{'y' * 150}\n" for index in range(1000))
    file.write_text((PLAIN / "old.yaml").read_text() + more + "environment:\n" + environments)
    (checkouts.new / ".github/workflows/evil.yml").write_text("on: push\n")
    for index in range(60):
        (checkouts.new / f"components/{'z' * 190}{index}").write_text("")
    comment = comment_on(PLAIN / "old.yaml", file, checkouts)
    assert comment.refused and "is not a known key, and encrypted" in comment.text
    assert "and 950 more; read the diff" in comment.text
    assert "edits what runs automatically" in comment.text and "The program itself changes" in comment.text
    assert "which may set anything" in comment.text and "Cut off here" not in comment.text


def test_a_thousand_devices_are_told_in_fifty_lines(tmp_path: Path) -> None:
    file = tmp_path / "Pulumi.home.yaml"
    more = "".join(f"    - {{name: d{index}, platform: ios}}\n" for index in range(1000))
    file.write_text((PLAIN / "old.yaml").read_text() + more)
    text = comment_on(PLAIN / "old.yaml", file).text
    assert "and 995 more" in text and "- and 950 more; read the diff." in text and len(text) < COMMENT_LIMIT


# Command


def test_the_command_needs_nothing_of_its_surroundings(tmp_path: Path) -> None:
    """No passphrase, keystore, SSH agent, home or network; the environment is empty."""
    case = CASES / "04-a-phone-is-lost"
    command = [sys.executable, "-m", "components.describe", "--stack", "home"]
    shown = subprocess.run(
        [*command, case / "old.yaml", case / "new.yaml"], cwd=PROJECT, env={}, capture_output=True, text=True
    )
    assert shown.returncode == 0, shown.stderr
    assert "**`phone-ben` loses access for good.**" in shown.stdout and shown.stderr == ""


@pytest.mark.parametrize(("case", "status"), [("18-it-does-not-parse", 1), ("02-removed-stack", 0)])
def test_the_status_tells_a_workflow_whether_up_would_refuse(
    case: str, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(CASES / case / "old.yaml"), str(CASES / case / "new.yaml")]) == status
    assert capsys.readouterr().out.startswith("<!-- immich-exposure: new -->")


def test_dev_null_is_no_file(capsys: pytest.CaptureFixture[str]) -> None:
    """As git hands over what is not there."""
    assert main([os.devnull, str(PLAIN / "new.yaml"), "--stack", "home"]) == 0
    assert "A new exposure" in capsys.readouterr().out


def test_one_checkout_alone_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["a", "b", "--old-project", "."]) == 2
    assert "Name both" in capsys.readouterr().err


if __name__ == "__main__":
    asyncio.set_event_loop(asyncio.new_event_loop())
    for each in cases():
        (each / "comment.md").write_text(told(each), encoding="utf-8")
