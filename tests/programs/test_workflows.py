"""The workflows: what they may do, and what their steps do, run here in the shell with a made-up GitHub."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.describe.all_stacks import concerned, stacks
from components.describe.checkout_changes import changed_files
from components.describe.comment import Checkouts
from toolchain.paths import PROJECT

FOLDER = PROJECT / ".github/workflows"
WORKFLOWS = {path.stem: yaml.safe_load(path.read_text()) for path in sorted(FOLDER.glob("*.yml"))}
JOBS = [(name, job) for name, workflow in WORKFLOWS.items() for job in workflow["jobs"]]
CASES = PROJECT / "tests" / "unit" / "describe"
NO_BUILD = shutil.ignore_patterns("__pycache__", "node_modules")


def triggers(name: str) -> dict[str, Any]:
    on = WORKFLOWS[name][True]  # YAML 1.1 takes `on` for true
    return on if isinstance(on, dict) else {on: None}


def steps(workflow: str, job: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = WORKFLOWS[workflow]["jobs"][job]["steps"]
    return found


def script(workflow: str, job: str, step: str) -> str:
    """Return the shell text of a step, by its name or id."""
    (found,) = [each for each in steps(workflow, job) if step in (each.get("name"), each.get("id"))]
    return str(found["run"])


# What they may do


def test_there_are_those_that_the_documents_name() -> None:
    assert set(WORKFLOWS) == {"ci", "comment", "drift", "preview", "release", "up"}


@pytest.mark.parametrize("name", WORKFLOWS)
def test_nothing_is_allowed_that_no_job_asks_for(name: str) -> None:
    assert WORKFLOWS[name]["permissions"] == {}
    for job in WORKFLOWS[name]["jobs"].values():
        assert job["permissions"] and job["timeout-minutes"]


@pytest.mark.parametrize("name", WORKFLOWS)
def test_no_pull_request_runs_with_a_right_to_write(name: str) -> None:
    assert "pull_request_target" not in triggers(name)
    if "pull_request" in triggers(name):
        for job in WORKFLOWS[name]["jobs"].values():
            ours = "github.event.pull_request.head.repo.full_name == github.repository" in job.get("if", "")
            written = [right for right, level in job["permissions"].items() if level == "write"]
            assert ours or not written
            assert ours or "secrets." not in json.dumps(job)


@pytest.mark.parametrize(("name", "job"), JOBS)
def test_a_step_takes_words_of_an_event_from_its_environment_alone(name: str, job: str) -> None:
    """An expression within the script would be a part of it, whatever a branch or a file is called."""
    for step in steps(name, job):
        assert "${{" not in step.get("run", "")


@pytest.mark.parametrize(("name", "job"), JOBS)
def test_the_scripts_are_sound(name: str, job: str) -> None:
    for step in steps(name, job):
        if "run" in step:
            text = "#!/bin/bash\nset -e\n" + step["run"]
            done = subprocess.run(["shellcheck", "-"], input=text, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout


def test_what_runs_with_the_right_to_comment_checks_out_the_default_branch() -> None:
    checkouts = [each for each in steps("comment", "comment") if "actions/checkout@" in each.get("uses", "")]
    assert [set(each["with"]) for each in checkouts] == [{"path", "persist-credentials"}]
    assert set(WORKFLOWS["comment"]["jobs"]["comment"]["permissions"].items()) == {
        ("contents", "read"),
        ("pull-requests", "write"),
    }
    assert "secrets." not in (FOLDER / "comment.yml").read_text()


def test_up_is_held_to_the_plan_and_waits_for_its_environment() -> None:
    job = WORKFLOWS["up"]["jobs"]["up"]
    assert job["environment"] == "${{ matrix.stack }}"
    assert job["concurrency"]["cancel-in-progress"] is False
    (up,) = [each["with"] for each in job["steps"] if "pulumi/actions@" in each.get("uses", "")]
    assert up["command"] == "up" and up["plan"] == "${{ steps.plan.outputs.file }}"


def test_the_night_changes_nothing() -> None:
    (look,) = [each["with"] for each in steps("drift", "drift") if "pulumi/actions@" in each.get("uses", "")]
    assert look["command"] == "preview" and look["refresh"] and look["expect-no-changes"]
    assert "schedule" in triggers("drift")


def test_no_script_of_a_job_or_a_hook_is_missing_or_unused() -> None:
    callers = [*FOLDER.glob("*.yml"), PROJECT / "Makefile", PROJECT / ".pre-commit-config.yaml"]
    named = {name for caller in callers for name in re.findall(r"\.ci/(\w+)", caller.read_text())}
    assert named == {path.name for path in (PROJECT / ".ci").iterdir()}
    assert all(os.access(PROJECT / ".ci" / name, os.X_OK) for name in named - {"run"})


# A runner


@dataclass
class Runner:
    """A job's folder, with a base and a change of this project, and a GitHub that answers from files."""

    folder: Path

    @property
    def summary(self) -> str:
        return (self.folder / "summary").read_text()

    @property
    def outputs(self) -> dict[str, str]:
        lines = (self.folder / "output").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines)

    def run(self, text: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a step as GitHub does: bash, ending at the first command that fails."""
        fixed = {
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "GITHUB_OUTPUT": str(self.folder / "output"),
            "GITHUB_STEP_SUMMARY": str(self.folder / "summary"),
            "GITHUB_REPOSITORY": "family/photos",
            "GITHUB_SERVER_URL": "https://github.com",
            "HOME": str(self.folder),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        return subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", text],
            cwd=self.folder,
            env={**fixed, **environment},
            capture_output=True,
            text=True,
        )

    def answers(self, **files: str) -> None:
        """Let `gh` answer: by the last words of the address, JSON to which `--jq` is applied."""
        for name, content in files.items():
            (self.folder / "github" / name).write_text(content)

    @property
    def calls(self) -> list[list[str]]:
        log = self.folder / "calls"
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    def written(self) -> list[tuple[str, str]]:
        """Return method and address of every call that writes."""
        return [
            (call[call.index("--method") + 1], next(each for each in call if each.startswith("repos/")))
            for call in self.calls
            if "--method" in call and call[call.index("--method") + 1] != "GET"
        ]


GH = """#!PYTHON -I
import json, pathlib, subprocess, sys
here = pathlib.Path(__file__).resolve().parents[1]
arguments = sys.argv[1:]
with (here / "calls").open("a") as log:
    log.write(json.dumps(arguments) + "\\n")
if arguments[:2] == ["run", "download"]:
    folder = pathlib.Path(arguments[arguments.index("--dir") + 1])
    (folder / "plan.json").write_text(arguments[arguments.index("--name") + 1])
    sys.exit()
address = next(each for each in arguments if each.startswith("repos/"))
file = here / "github" / address.rpartition("/")[2]
if "--method" in arguments and arguments[arguments.index("--method") + 1] != "GET":
    sys.exit()
if "--jq" in arguments:
    query = arguments[arguments.index("--jq") + 1]
    sys.exit(subprocess.run(["jq", "--raw-output", query], input=file.read_bytes()).returncode)
"""

needs_jq = pytest.mark.skipif(shutil.which("jq") is None, reason="the queries are jq's")


@pytest.fixture
def runner(tmp_path: Path) -> Iterator[Runner]:
    for name in ("base", "change"):
        for part in ("components", "pki", "policy", "server", "toolchain", ".ci", ".github"):
            shutil.copytree(PROJECT / part, tmp_path / name / part, ignore=NO_BUILD)
        (tmp_path / name / "stacks").mkdir()
        shutil.copy(CASES / "04-a-phone-is-lost/old.yaml", tmp_path / name / "stacks/Pulumi.home.yaml")
        shutil.copy(PROJECT / "Pulumi.yaml", tmp_path / name)
    (tmp_path / "env/bin").mkdir(parents=True)
    (tmp_path / "env/bin/python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (tmp_path / "env/bin/python").chmod(0o755)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/gh").write_text(GH.replace("PYTHON", sys.executable))
    (tmp_path / "bin/gh").chmod(0o755)
    (tmp_path / "github").mkdir()
    yield Runner(tmp_path)


def lose_a_phone(project: Path) -> None:
    shutil.copy(CASES / "04-a-phone-is-lost/new.yaml", project / "stacks/Pulumi.home.yaml")


def poison(project: Path) -> None:
    """Let everything of a pull request that could be run leave a trace."""
    for file in (*project.rglob("*.py"), *(project / ".ci").iterdir()):
        evil = "import pathlib; pathlib.Path('/').joinpath('PWNED')" if file.suffix == ".py" else "exit 66"
        file.write_text(f"{evil}\nraise SystemExit(66)\n" if file.suffix == ".py" else f"#!/bin/sh\n{evil}\n")


WORDS = script("preview", "words", "Words")
NAMES = script("preview", "words", "Stacks that can be previewed")


def test_the_words_of_a_pull_request(runner: Runner) -> None:
    lose_a_phone(runner.folder / "change")
    done = runner.run(WORDS, LINKS="https://github.com/family/photos/pull/7/files")
    assert done.returncode == 0, done.stderr
    assert "**`phone-ben` loses access for good.**" in runner.summary
    assert "https://github.com/family/photos/pull/7/files#diff-" in runner.summary
    assert runner.run(NAMES).returncode == 0
    assert runner.outputs == {"stacks": '["home"]'}


def test_a_strangers_program_is_described_and_not_run(runner: Runner) -> None:
    poison(runner.folder / "change")
    done = runner.run(WORDS, LINKS="")
    assert done.returncode == 0, done.stderr
    assert "**The program itself changes.**" in runner.summary
    assert "runs automatically, with the rights of this repository" in runner.summary


def test_a_file_that_does_not_parse_fails_the_check_and_is_told(runner: Runner) -> None:
    (runner.folder / "change/stacks/Pulumi.home.yaml").write_text("config: [\n")
    assert runner.run(WORDS, LINKS="").returncode == 1
    assert "cannot be read" in runner.summary and "line 2, column 1" in runner.summary


def test_nothing_to_say_is_no_error(runner: Runner) -> None:
    assert runner.run(WORDS, LINKS="").returncode == 0
    assert runner.summary == ""
    assert runner.run(NAMES).returncode == 0 and runner.outputs == {"stacks": "[]"}


def test_a_removed_stack_is_told_and_not_previewed(runner: Runner) -> None:
    (runner.folder / "change/stacks/Pulumi.home.yaml").unlink()
    assert runner.run(WORDS, LINKS="").returncode == 0
    assert "removes the settings of an exposure" in runner.summary
    assert runner.run(NAMES).returncode == 0 and runner.outputs == {"stacks": "[]"}


def test_a_file_with_a_strange_name_is_no_stack(runner: Runner) -> None:
    for name in ("Pulumi.$(id).yaml", "Pulumi.a b.yaml", "Pulumi..yaml", 'Pulumi.a","b.yaml', "x.yaml"):
        (runner.folder / "change/stacks" / name).write_text("config: {}\n")
    assert stacks(runner.folder / "change") == {"home"}


def test_a_name_that_is_no_text_stops_no_description(runner: Runner) -> None:
    """Git takes any bytes for a name; without a comment, the one about the commit before would stay."""
    lose_a_phone(runner.folder / "change")
    (runner.folder / os.fsdecode(b"change/docs-\xff")).write_text("")
    done = runner.run(WORDS, LINKS="https://github.com/family/photos/pull/7/files")
    assert done.returncode == 0, done.stderr
    assert "loses access for good" in runner.summary and "`docs-`" in runner.summary


@pytest.mark.parametrize("broken", ["describe", "changed_files"])
def test_a_bug_of_ours_is_told_and_fails_the_check(runner: Runner, broken: str) -> None:
    lose_a_phone(runner.folder / "change")
    with (runner.folder / "base/components/describe/all_stacks.py").open("r+") as file:
        text = file.read()
        file.seek(0)
        file.write(
            text.replace('if __name__ == "__main__":', f'{broken} = None\n\nif __name__ == "__main__":')
        )
    assert runner.run(WORDS, LINKS="").returncode == 1
    assert runner.summary.startswith(MARK) and "could not be described" in runner.summary


def test_the_keystore_of_a_stack_concerns_it(runner: Runner) -> None:
    for project, content in (("base", "old"), ("change", "new")):
        keystore = runner.folder / project / "stacks/keystore/home"
        keystore.mkdir(parents=True)
        (keystore / "ca.key").write_text(content)
    assert runner.run(WORDS, LINKS="").returncode == 0
    assert (
        "| keys of the authority and the devices, encrypted | `stacks/keystore/home/ca.key` |"
        in runner.summary
    )


def test_the_program_concerns_every_stack_and_a_stack_itself_alone(runner: Runner) -> None:
    checkouts = Checkouts(runner.folder / "base", runner.folder / "change")
    for project in (checkouts.old, checkouts.new):
        for name in ("cabin", "lab"):
            (project / f"stacks/Pulumi.{name}.yaml").write_text("config: {}\n")

    def now() -> list[str]:
        return concerned(checkouts, changed_files(checkouts.old, checkouts.new))

    assert now() == []
    (checkouts.new / "docs").mkdir()
    (checkouts.new / "docs/x.md").write_text("words\n")
    assert now() == []
    (checkouts.new / "stacks/Pulumi.cabin.yaml").write_text("config: {a: 1}\n")
    assert now() == ["cabin"]
    (checkouts.new / "server/Caddyfile").write_text("")
    assert now() == ["cabin", "home"]
    (checkouts.new / "stacks/Pulumi.lab.yaml").write_text("config: {a: 1}\n")
    assert now() == ["cabin", "home", "lab"]


# The comment

COMMENT = script("comment", "comment", "Comment")
EVENT = {"HEAD_OWNER": "stranger", "HEAD_BRANCH": "my-change"}
MARK = "<!-- immich-exposure: home -->"


def push(runner: Runner) -> dict[str, str]:
    """Commit the base and the change to what stands for GitHub, and return the event of pull request 7."""
    github = runner.folder / "family/photos"
    github.mkdir(parents=True)
    git(github, "init", "--quiet", "--initial-branch=main")
    shutil.copytree(runner.folder / "base", github, dirs_exist_ok=True)
    main = commit(github)
    shutil.copytree(runner.folder / "change", github, dirs_exist_ok=True)
    head = commit(github)
    tree = git(github, "rev-parse", f"{head}^{{tree}}")
    merge = git(github, "commit-tree", tree, "-p", main, "-p", head, "-m", "x")
    git(github, "update-ref", "refs/pull/7/merge", merge)
    pulls = [{"number": 6, "head": {"sha": "other"}}, {"number": 7, "head": {"sha": head}}]
    runner.answers(pulls=json.dumps(pulls))
    return {**EVENT, "HEAD_SHA": head, "GITHUB_SERVER_URL": f"file://{runner.folder}"}


def comments(*bodies: tuple[str, str]) -> str:
    return json.dumps(
        [
            {"id": index, "user": {"login": login}, "body": body}
            for index, (login, body) in enumerate(bodies, 1)
        ]
    )


def ready(runner: Runner, known: str = "[]") -> dict[str, str]:
    change = runner.folder / "change"
    lose_a_phone(change)
    poison(change)
    event = push(runner)
    shutil.rmtree(change)
    runner.answers(comments=known)
    return event


@needs_jq
def test_a_forks_pull_request_gets_the_comment_and_runs_nothing(runner: Runner) -> None:
    event = ready(runner)
    done = runner.run(COMMENT, **event)
    assert done.returncode == 0, done.stderr
    assert runner.written() == [("POST", "repos/family/photos/issues/7/comments")]
    assert [each for each in runner.calls[0] if each.startswith("head=")] == ["head=stranger:my-change"]
    text = (runner.folder / "out/home.md").read_text()
    assert text.startswith(MARK) and "pull/7/files#diff-" in text and "loses access for good" in text


@needs_jq
def test_the_comment_is_edited_in_place_and_one_of_no_stack_goes(runner: Runner) -> None:
    bot = "github-actions[bot]"
    known = comments(
        ("anna", f"{MARK}\nmine"),
        (bot, f"{MARK}\nold"),
        (bot, "<!-- immich-exposure: cabin -->\nold"),
        (bot, "of another workflow"),
    )
    event = ready(runner, known)
    assert runner.run(COMMENT, **event).returncode == 0
    assert runner.written() == [
        ("PATCH", "repos/family/photos/issues/comments/2"),
        ("DELETE", "repos/family/photos/issues/comments/3"),
    ]


@needs_jq
def test_a_commit_that_is_no_longer_at_the_head_gets_none(runner: Runner) -> None:
    event = ready(runner)
    done = runner.run(COMMENT, **{**event, "HEAD_SHA": "gone"})
    assert done.returncode == 0 and "No open pull request" in done.stdout and runner.written() == []


@needs_jq
def test_a_merge_of_another_commit_is_not_described_as_this_one(runner: Runner) -> None:
    """GitHub makes the merge when it comes to it: until then the one of the commit before is there."""
    event = ready(runner)
    runner.answers(pulls=json.dumps([{"number": 7, "head": {"sha": "newer"}}]))
    done = runner.run(COMMENT, **{**event, "HEAD_SHA": "newer"})
    assert done.returncode == 3 and "has no merge with the commit newer" in done.stderr
    assert runner.written() == []


@needs_jq
def test_a_pull_request_leaves_no_file_out_of_its_comment(runner: Runner) -> None:
    """An archive leaves out what a .gitattributes of the pull request's own names."""
    change = runner.folder / "change"
    (change / ".github/workflows/evil.yml").write_text("on: push\n")
    shutil.copy(change / "stacks/Pulumi.home.yaml", change / "stacks/Pulumi.evil.yaml")
    (change / "components/$Format:%H$.py").write_text("")
    (change / ".gitattributes").write_text("* export-ignore\nstacks export-ignore\n* export-subst\n")
    event = push(runner)
    shutil.rmtree(change)
    runner.answers(comments="[]")
    done = runner.run(COMMENT, **event)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (runner.folder / "out").iterdir()) == ["evil.md", "home.md"]
    text = (runner.folder / "out/evil.md").read_text()
    assert "A new exposure" in text and "`.github/workflows/evil.yml`" in text and "removed" not in text


def test_a_comment_goes_to_a_number_alone(runner: Runner) -> None:
    done = runner.run("base/.ci/comment out 7/../../x")
    assert done.returncode == 2 and runner.calls == []


# What is brought up


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Return a repository with a commit, two stacks and the lab's."""
    folder = tmp_path / "repository"
    (folder / "stacks").mkdir(parents=True)
    shutil.copytree(PROJECT / ".ci", folder / ".ci")
    for name in ("home", "cabin", "lab"):
        (folder / f"stacks/Pulumi.{name}.yaml").write_text("config: {}\n")
    (folder / "pyproject.toml").write_text('version = "1.2.3"\n')
    (folder / "CHANGELOG.md").write_text("## [Unreleased]\n\n## [1.2.3] - 2026-11-27\n")
    git(folder, "init", "--quiet", "--initial-branch=main")
    commit(folder)
    return folder


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false")
    command = ["git", *identity, *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def commit(folder: Path) -> str:
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--allow-empty", "--message=x")
    return git(folder, "rev-parse", "HEAD")


@pytest.mark.parametrize(
    ("changed", "wanted"),
    [
        (["stacks/Pulumi.home.yaml"], ["home"]),
        (["stacks/Pulumi.home.yaml", "README.md", "docs/x.md", ".github/workflows/x.yml"], ["home"]),
        (["stacks/Pulumi.lab.yaml"], []),
        (["docs/x.md"], []),
        (["components/x.py"], ["cabin", "home"]),
        (["stacks/Pulumi.home.yaml", "server/Caddyfile"], ["cabin", "home"]),
        (["stacks/Pulumi.new.yaml"], ["new"]),
        (["stacks/Pulumi._hidden.yaml"], []),
        (["stacks/Pulumi.all.yaml"], ["all"]),
        ([], []),
    ],
)
def test_a_push_brings_up_what_it_concerns(
    runner: Runner, repository: Path, changed: list[str], wanted: list[str]
) -> None:
    before = git(repository, "rev-parse", "HEAD")
    for name in changed:
        (repository / name).parent.mkdir(parents=True, exist_ok=True)
        (repository / name).write_text("config: {a: 1}\n")
    after = commit(repository)
    text = f"cd repository\n{script('up', 'stacks', 'stacks')}"
    done = runner.run(text, BEFORE=before, GITHUB_SHA=after, NAMED="")
    assert done.returncode == 0, done.stderr
    assert json.loads(runner.outputs["stacks"]) == wanted


@pytest.mark.parametrize("name", ["preview", "Drift", "release"])
def test_no_stack_has_the_name_of_an_environment_without_approval(
    runner: Runner, repository: Path, name: str
) -> None:
    before = git(repository, "rev-parse", "HEAD")
    (repository / f"stacks/Pulumi.{name}.yaml").write_text("config: {}\n")
    done = runner.run(f"cd repository && .ci/stacks {before} {commit(repository)}")
    assert done.returncode == 1 and "rename it" in done.stderr and done.stdout == ""


def test_a_first_push_and_the_night_take_all_stacks(runner: Runner, repository: Path) -> None:
    head = git(repository, "rev-parse", "HEAD")
    for text, before in (
        (script("up", "stacks", "stacks"), "0" * 40),
        (script("drift", "stacks", "stacks"), ""),
    ):
        assert runner.run(f"cd repository\n{text}", BEFORE=before, GITHUB_SHA=head, NAMED="").returncode == 0
        assert json.loads(runner.outputs["stacks"]) == ["cabin", "home"]


def test_a_stack_that_is_named_by_hand_is_a_name(runner: Runner, repository: Path) -> None:
    text = f"cd repository\n{script('up', 'stacks', 'stacks')}"
    assert runner.run(text, BEFORE="", GITHUB_SHA="", NAMED="home").returncode == 0
    assert runner.outputs == {"stacks": '["home"]'}
    done = runner.run(text, BEFORE="", GITHUB_SHA="", NAMED='x"],"y')
    assert done.returncode == 1 and "not the name of a stack" in done.stderr


PLAN = script("up", "up", "Reviewed plan")


@needs_jq
def test_the_plan_is_that_of_the_preview_before_the_merge(runner: Runner) -> None:
    merged = [{"merged_at": None, "head": {"sha": "x"}}, {"merged_at": "2026", "head": {"sha": "abc"}}]
    runs = {"workflow_runs": [{"conclusion": "failure", "id": 1}, {"conclusion": "success", "id": 2}]}
    runner.answers(pulls=json.dumps(merged), runs=json.dumps(runs))
    done = runner.run(f"cd base\n{PLAN}", STACK="home", GITHUB_SHA="merge")
    assert done.returncode == 0, done.stderr
    assert (runner.folder / "base/plan.json").read_text() == "plan-home"
    assert runner.outputs == {"file": "plan.json"}
    assert "head_sha=abc" in runner.calls[1] and runner.calls[2][:3] == ["run", "download", "2"]


@needs_jq
@pytest.mark.parametrize(
    ("merged", "runs"),
    [([], []), ([{"merged_at": "2026", "head": {"sha": "abc"}}], [{"conclusion": "failure", "id": 1}])],
)
def test_without_a_plan_nothing_runs(runner: Runner, merged: list[Any], runs: list[Any]) -> None:
    runner.answers(pulls=json.dumps(merged), runs=json.dumps({"workflow_runs": runs}))
    done = runner.run(f"cd base\n{PLAN}", STACK="home", GITHUB_SHA="merge")
    assert done.returncode == 1 and "no plan to hold to" in done.stderr
    assert not (runner.folder / "output").exists()


def test_a_release_is_the_same_bytes_each_time(runner: Runner, repository: Path) -> None:
    git(repository, "tag", "v1.2.3")
    archive = repository / "dist/immich-exposure-1.2.3.tar.gz"
    text = f"cd repository\n{script('release', 'release', 'Archive')}"
    seen = set()
    for _ in range(2):
        assert runner.run(text, GITHUB_REF_NAME="v1.2.3").returncode == 0
        seen.add(archive.read_bytes())
    assert len(seen) == 1
    with tarfile.open(archive) as packed:
        assert "immich-exposure-1.2.3/pyproject.toml" in packed.getnames()
    git(repository, "tag", "v9")
    done = runner.run(text, GITHUB_REF_NAME="v9")
    assert done.returncode == 1 and "does not have the version of the tag v9" in done.stderr
    (repository / "CHANGELOG.md").write_text("## [Unreleased]\n\n## [11.2.3] - 2026-11-27\n")
    done = runner.run(text, GITHUB_REF_NAME="v1.2.3")
    assert done.returncode == 1 and "no section for version 1.2.3" in done.stderr


# GitLab

GITLAB = yaml.safe_load((PROJECT / "docs/gitlab-ci.yml").read_text())
INSTALLS = ("venv", "pip install", "get.pulumi.com", "export PATH", "rm -rf", "git worktree")
PULUMI = '#!/bin/sh\necho "$*" >>"$HOME/pulumi"\ncase $* in *cabin*) exit "${CABIN:-0}" ;; esac\n'


def gitlab(job: str) -> str:
    """Return a job's commands, without those that install something."""
    flat = [line for each in GITLAB[job]["script"] for line in (each if isinstance(each, list) else [each])]
    return "\n".join(line for line in flat if not any(word in line for word in INSTALLS))


@pytest.fixture
def pulumi(runner: Runner) -> Path:
    """Return what a made-up Pulumi notes its calls in."""
    (runner.folder / "bin/pulumi").write_text(PULUMI)
    (runner.folder / "bin/pulumi").chmod(0o755)
    return runner.folder / "pulumi"


def test_a_plan_is_made_of_what_a_runner_can_know(runner: Runner, pulumi: Path) -> None:
    """Held against a real `pulumi up` by `tests/lab/test_plan.py`."""
    [made] = [each for each in steps("preview", "preview") if each.get("name") == "Plan"]
    assert made["env"]["IMMICH_EXPOSURE_PLAN"] == "1"
    assert runner.run(made["run"], STACK="home").returncode == 0
    (call,) = pulumi.read_text().splitlines()
    assert call == "preview --non-interactive --stack home --save-plan plan.json"


def test_gitlab_tells_the_words(runner: Runner) -> None:
    lose_a_phone(runner.folder / "change")
    poison(runner.folder / "change")
    (runner.folder / "here").mkdir()
    lines = [each for each in GITLAB["words"]["script"] if ".ci/words" in each]
    assert len(lines) == 1 and " ../base/.ci/words " in lines[0]
    address = {"CI_MERGE_REQUEST_PROJECT_URL": "https://gitlab.com/f/p", "CI_MERGE_REQUEST_IID": "7"}
    done = runner.run(f"cd here\n{lines[0]}", **address)
    assert done.returncode == 0, done.stderr
    text = (runner.folder / "here/words/home.md").read_text()
    assert "loses access for good" in text and "/-/merge_requests/7/diffs#" in text and "#diff-" not in text


def test_gitlab_brings_up_and_looks_at_each_stack(runner: Runner, repository: Path, pulumi: Path) -> None:
    head = git(repository, "rev-parse", "HEAD")
    words = {"CI_COMMIT_BEFORE_SHA": "0" * 40, "CI_COMMIT_SHA": head}
    for job in ("up", "drift"):
        assert runner.run(f"cd repository\n{gitlab(job)}", **words).returncode == 0
    calls = pulumi.read_text().splitlines()
    assert [call.split()[0] for call in calls] == ["up", "up", "preview", "preview"]
    assert "--stack cabin" in calls[0] and "--stack home" in calls[1]
    assert all("--refresh --expect-no-changes" in call for call in calls[2:])
    assert runner.run(f"cd repository\n{gitlab('up')}", **words, CABIN="3").returncode == 3


def test_gitlab_previews_what_was_told_and_is_there(runner: Runner, repository: Path, pulumi: Path) -> None:
    (repository / "words").mkdir()
    for name in ("home", "removed"):
        (repository / f"words/{name}.md").write_text("words\n")
    assert runner.run(f"cd repository\n{gitlab('preview')}").returncode == 0
    (call,) = pulumi.read_text().splitlines()
    assert "--stack home" in call and "--policy-pack policy" in call
