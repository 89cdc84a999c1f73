"""What a change to a stack's settings does, in words for a reviewer: `python -m components.describe OLD NEW`.

A pure function from two stack files, and optionally two checkouts, to a comment in Markdown. It needs no
passphrase, key, keystore, network or engine, so it also runs for a stranger's pull request; that is read and
never run (docs/review.md).
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from components.config.policy import lowered
from components.config.policy_facts import in_words, policy_facts
from components.config.stack_config import SECRETS, ConfigError, ExposureConfig, load
from components.config.stack_settings import (
    StackFileError,
    StackSettings,
    project_defaults,
    read_file,
    read_settings,
)
from components.describe.changes import Hidden, Module, Sections, beginning, changes, end, whole
from components.describe.checkout_changes import (
    NOT_COMPARED,
    PACKAGES,
    PROGRAM,
    RUNS_AUTOMATICALLY,
    Change,
    changed_files,
    module_of,
    requests,
    surface_of,
)
from components.describe.markdown import block, code, cut, prose
from components.surface.table import PROJECT
from policy.rules import Finding, Level, judge

MARK = "<!-- immich-exposure: {stack} -->"
"""The first line of a comment, by which the next comment finds and replaces it."""

LONG_AGO = datetime(1, 1, 1, tzinfo=UTC)
"""The present time for an old stack file: an expiry that has passed since was still in the future then."""

LISTED_FILES = 30
"""Files of one kind that are listed."""


@dataclass(frozen=True)
class Version:
    """A stack file before or after the change.

    `trouble` says where it does not parse; `problems` are the reasons for which `pulumi up` would refuse it.
    With either there is no `config`.
    """

    settings: StackSettings
    config: ExposureConfig | None = None
    problems: tuple[str, ...] = ()
    trouble: str = ""


@dataclass(frozen=True)
class Checkouts:
    """The two checkouts of the project that contain the stack files."""

    old: Path
    new: Path

    @property
    def have_the_program(self) -> bool:
        """Whether they are of this project, and not of stacks that use its package (`template/`)."""
        return (self.old / "server").exists()


@dataclass(frozen=True)
class Comment:
    """The comment, and whether `pulumi up` would refuse the settings."""

    text: str
    refused: bool


def version_of(
    file: Path, stack: str, *, now: datetime | None = None, project: Path | None = None
) -> Version | None:
    """Read one stack file; None if there is none. The Pulumi.yaml of `project` has the defaults."""
    try:
        text = read_file(file)
        if text is None:
            return None
        settings = read_settings(text, file.name, _defaults(project or PROJECT))
    except StackFileError as error:
        return Version(StackSettings({}), trouble=str(error))
    return checked(settings, stack, now)


def _defaults(project: Path) -> dict[str, object]:
    try:
        return project_defaults(read_file(project / "Pulumi.yaml") or "")
    except StackFileError as error:
        raise StackFileError(f"Pulumi.yaml, {error}") from error


def checked(settings: StackSettings, stack: str, now: datetime | None = None) -> Version:
    """Return settings with the configuration that the program would make from them."""
    try:
        config = load(
            settings.values,
            stack=stack,
            project_dir=None,
            secret_keys=[*settings.secrets],
            strays=settings.strays,
            now=now,
            preview=True,
        )
    except ConfigError as error:
        return Version(settings, problems=error.problems)
    return Version(settings, config)


def describe(
    old: Version | None, new: Version | None, stack: str, checkouts: Checkouts | None = None, links: str = ""
) -> Comment:
    """Return what the change from one version of a stack file to another does.

    Args:
        old: the version before; None for a new stack.
        new: the version after; None for a removed stack.
        stack: the stack's name.
        checkouts: the checkouts of both versions, to compare all other files as well.
        links: the address of the page that shows the files' diffs.
    """
    files = changed_files(checkouts.old, checkouts.new) if checkouts else []
    config = new.config if new else None
    findings = judge(policy_facts(config, stack), config.policy) if config else []
    mandatory = any(finding.level is Level.MANDATORY for finding in findings)
    parts = [
        MARK.format(stack=_plain_name(stack)),
        f"## What this change does to the stack {code(stack)}",
        *([_BROKEN] if mandatory else []),
        *_main(old, new, _module(checkouts, files)),
        *_policy(old, new, findings),
        *_secrets(old, new),
        *_surface(checkouts),
        *_files(files, links),
        *_not_looked_at(old, new, checkouts is not None),
    ]
    refused = mandatory or (new is not None and new.config is None)
    return Comment(cut("\n\n".join(parts) + "\n"), refused)


def not_described(stack: str) -> Comment:
    """Return the comment for a change that a bug in this program keeps from being described."""
    return Comment(
        f"{MARK.format(stack=_plain_name(stack))}\n\n## What this change does to the stack {code(stack)}\n\n"
        "**This change could not be described, because the description itself failed.** That is no "
        "sign that the change is harmless: read its diff. The log of this run has the error.\n",
        refused=True,
    )


def _plain_name(stack: str) -> str:
    return re.sub(r"[^A-Za-z0-9._/-]", "_", stack)


def _module(checkouts: Checkouts | None, files: Sequence[Change]) -> Module:
    if checkouts is None:
        return Module.the_same()
    if not checkouts.have_the_program:
        return Module(None, None) if any(change.area == PACKAGES for change in files) else Module.the_same()
    return Module(module_of(checkouts.old), module_of(checkouts.new))


def _main(old: Version | None, new: Version | None, module: Module) -> Iterator[str]:
    if new is None:
        yield from _removed(old)
    elif new.trouble:
        yield "**The stack file cannot be read, so `pulumi up` changes nothing.**"
        yield block([new.trouble])
    elif new.config is None:
        count = "1 problem" if len(new.problems) == 1 else f"{len(new.problems)} problems"
        yield f"**`pulumi up` refuses these settings ({count}), and changes nothing.**"
        yield block(list(new.problems))
    else:
        yield from _accepted(old, new, new.config, module)


def _removed(old: Version | None) -> Iterator[str]:
    if old is None:
        yield "There is no such stack file, before or after."
    elif old.config is None:
        yield (
            "This removes a stack file that could not be used. If something was ever exposed with it, run "
            "`pulumi destroy` first."
        )
    else:
        summary = end(old.config)
        yield from summary.first
        yield from _sections(summary.sections)


def _accepted(old: Version | None, new: Version, config: ExposureConfig, module: Module) -> Iterator[str]:
    hidden = Hidden(old.settings.hidden if old else (), new.settings.hidden)
    if old is None or old.config is None:
        if old is not None:
            yield "The old settings could not be used, so all of the new ones are listed."
        summary = beginning(config, hidden.new)
        yield "\n".join(f"- {_sentence(line)}" for line in summary.first)
        yield from _sections(summary.sections)
        return
    summary = changes(old.config, config, module, hidden)
    if any(summary.sections.values()):
        yield "\n".join(f"- {_sentence(line)}" for line in summary.first)
        yield from _sections(summary.sections)
    elif hidden.either or new.settings.environments or old.settings.environments:
        yield "Nothing that can be read here changes; see below what was not looked at."
    else:
        yield "The settings change nothing about what is public, who gets in or what is built."
    inside = "\n\n".join(_sections(whole(config, hidden.new), level=4))
    yield f"<details><summary>All that is public with this change</summary>\n\n{inside}\n\n</details>"


def _sections(sections: Sections, level: int = 3) -> Iterator[str]:
    for heading, lines in sections.items():
        if lines:
            shown = [f"- {_sentence(line)}" for line in lines[:LISTED_LINES]]
            if len(lines) > LISTED_LINES:
                shown.append(f"- and {len(lines) - LISTED_LINES} more; read the diff.")
            yield "\n".join([f"{'#' * level} {heading}", "", *shown])


LISTED_LINES = 50
"""Lines under one heading."""


def _sentence(line: str) -> str:
    """Return a line with a capital letter and a full stop, if it starts with a word of ours."""
    start = 2 if line.startswith("**") else 0
    if line.startswith("pulumi "):
        return f"{line}."
    whole_line = line[:start] + line[start : start + 1].upper() + line[start + 1 :]
    return whole_line if whole_line.rstrip("*").endswith((".", ":")) else f"{whole_line}."


# Policy

_BROKEN = "**`pulumi up` refuses this and changes nothing: it breaks a mandatory rule (see Policy).**"


def _policy(old: Version | None, new: Version | None, findings: Sequence[Finding]) -> Iterator[str]:
    if new is None or new.config is None:
        return
    lines = [
        f"{'**refused**' if finding.level is Level.MANDATORY else 'warning'}: {prose(in_words(finding))}"
        for finding in findings
    ]
    before = old.config.policy if old and old.config else {}
    low = lowered(new.config.policy)
    for name, now in new.config.policy.items():
        was = before.get(name)
        changed = was is not None and was != now
        if name in low or changed:
            change = f", which was {was}" if changed else ""
            lines.append(f"the rule {code(name)} is **{now}** in this stack{change}")
    if lines:
        yield "\n".join(["### Policy", "", *(f"- {_sentence(line)}" for line in lines)])


# Secrets


def _secrets(old: Version | None, new: Version | None) -> Iterator[str]:
    if new is None or new.trouble:
        return
    before: Mapping[str, str] = old.settings.secrets if old else {}
    after = new.settings.secrets
    every = [f"- {line}" for line in _secret_lines(before, after)]
    lines = every[:LISTED_LINES]
    if len(every) > LISTED_LINES:
        lines.append(f"- and {len(every) - LISTED_LINES} more; read the diff.")
    if old and not old.trouble and old.settings.salt != new.settings.salt:
        lines.append(
            "- **The stack's secrets are encrypted in another way** (its passphrase or key service), so that "
            "all of them look changed."
        )
    if lines:
        yield "\n".join(["### Secrets", "", *lines, "", "Their values are not read here."])


def _secret_lines(before: Mapping[str, str], after: Mapping[str, str]) -> Iterator[str]:
    for key in sorted({*before, *after}):
        if key not in before:
            yield f"{code(key)} is {'set' if key in SECRETS else 'encrypted from now on'}."
        elif key not in after:
            yield f"{code(key)} is no longer encrypted, or no longer there."
        elif before[key] != after[key]:
            said = " The keystore opens with the new one only after `make keystore ARGS=passphrase`."
            note = said if key == SECRETS[0] else ""
            yield f"{code(key)} is changed, or encrypted again.{note}"


# Other files


def _surface(checkouts: Checkouts | None) -> Iterator[str]:
    """Yield how the surface table changes; no setting shows that."""
    if checkouts is None or not checkouts.have_the_program:
        return
    old, new = surface_of(checkouts.old), surface_of(checkouts.new)
    if new is None:
        yield "**`server/surface.toml` cannot be read, so what strangers would reach is unknown.**"
        return
    before = requests(old) if old else {}
    after = requests(new)
    come = [f"- new: {code(line)} ({code(after[line])})" for line in after if line not in before]
    gone = [f"- no longer: {code(line)} ({code(before[line])})" for line in before if line not in after]
    if come or gone:
        head = "### Requests that strangers may send, whatever the settings\n"
        yield "\n".join([head, *come[:LISTED_LINES], *gone[:LISTED_LINES]])


def _files(files: Sequence[Change], links: str) -> Iterator[str]:
    if not files:
        return
    by_area: dict[str, list[Change]] = {}
    for change in files:
        by_area.setdefault(change.area, []).append(change)
    # The warnings come first, so that no long table pushes them out of the comment.
    yield "### Files"
    yield from _warnings(by_area)
    rows = ["| what they are for | files |", "| --- | --- |"]
    for area, changed in by_area.items():
        shown = [_linked(change, links) for change in changed[:LISTED_FILES]]
        if len(changed) > LISTED_FILES:
            shown.append(f"and {len(changed) - LISTED_FILES} more")
        rows.append(f"| {area} | {', '.join(shown)} |")
    yield "\n".join(rows)


def _warnings(by_area: Mapping[str, Sequence[Change]]) -> Iterator[str]:
    if NOT_COMPARED in by_area:
        names = ", ".join(code(change.path) for change in by_area[NOT_COMPARED])
        yield (
            f"**{names} was not compared.** It does not belong in a pull request: what it contains runs "
            "before the program, or instead of it."
        )
    if RUNS_AUTOMATICALLY in by_area:
        yield (
            "**This edits what runs automatically with the rights of this repository.** A comment cannot "
            "say what such a file will do: read it as code, before anybody approves a run."
        )
    if PROGRAM in by_area or PACKAGES in by_area:
        yield (
            "**The program itself changes.** This comment is from the version before the change and covers "
            "the settings alone; for what the new version does, see its diff and its own preview."
        )


def _linked(change: Change, links: str) -> str:
    # In a table, a vertical bar would end the cell, even within code.
    name = code(change.path).replace("|", "\\|")
    how = "" if change.how == "changed" else f" ({change.how})"
    return f"[{name}]({links}{_anchor(change.path, links)}){how}" if links else f"{name}{how}"


def _anchor(path: str, links: str) -> str:
    """Return where the page of a pull request (GitHub) or merge request (GitLab) shows a file."""
    if "/-/merge_requests/" in links:
        return f"#{hashlib.sha1(os.fsencode(path), usedforsecurity=False).hexdigest()}"
    return f"#diff-{hashlib.sha256(os.fsencode(path)).hexdigest()}"


# What is not checked


def _not_looked_at(old: Version | None, new: Version | None, compared: bool) -> Iterator[str]:
    versions = [version for version in (old, new) if version is not None]
    lines = [
        *([] if compared else ["all other files: without two checkouts, only the settings are compared"]),
        "the server itself: `pulumi up` reports what is in the way there before it changes anything",
    ]
    hidden = sorted({key for version in versions for key in version.settings.hidden})
    if hidden:
        names = _some(hidden)
        lines.insert(0, f"**{names}**, encrypted: what depends on them is left out above")
    environments = sorted({name for version in versions for name in version.settings.environments})
    if environments:
        names = _some(environments)
        lines.insert(0, f"**settings from the environments {names}** (Pulumi ESC), which may set anything")
    yield "\n".join(["### Not looked at", "", *(f"- {_sentence(line)}" for line in lines)])


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - LISTED_FILES} more" if len(names) > LISTED_FILES else ""
    return ", ".join(map(code, names[:LISTED_FILES])) + more


# Command


def main(arguments: Sequence[str]) -> int:
    """Print the comment. Returns 0; 1 if `pulumi up` would refuse the settings; 2 for wrong arguments."""
    options = _options(arguments)
    asyncio.set_event_loop(asyncio.new_event_loop())  # the SDK's outputs need one
    stack = options.stack or re.sub(r"^Pulumi\.|\.yaml$", "", options.new.name)
    pair = options.old_project, options.new_project
    if (pair[0] is None) != (pair[1] is None):
        print("Name both --old-project and --new-project, or neither.", file=sys.stderr)
        return 2
    checkouts = Checkouts(*pair) if pair[0] and pair[1] else None
    comment = describe(
        version_of(options.old, stack, now=LONG_AGO, project=pair[0]),
        version_of(options.new, stack, project=pair[1]),
        stack,
        checkouts,
        options.links,
    )
    print(comment.text, end="")
    return 1 if comment.refused else 0


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m components.describe",
        description="Say in words what a change of settings does. A missing file means that the stack is "
        "new, or removed. The exit status is 1 if `pulumi up` would refuse the settings.",
    )
    parser.add_argument("old", type=Path, metavar="OLD", help="the stack file before the change")
    parser.add_argument("new", type=Path, metavar="NEW", help="the stack file after the change")
    parser.add_argument("--stack", default="", help="the stack's name [from NEW: Pulumi.<stack>.yaml]")
    parser.add_argument("--old-project", type=Path, help="the checkout that OLD is from")
    parser.add_argument("--new-project", type=Path, help="the checkout that NEW is from, never run")
    parser.add_argument("--links", default="", help="address of the page that shows the files' diffs")
    return parser.parse_args(arguments)
