"""A comment for each stack that a change concerns: `python -m components.describe.all_stacks OLD NEW OUT`.

OLD and NEW are checkouts. OLD is trusted and runs this; NEW may be a stranger's and is only read.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

from components.describe.checkout_changes import AREAS, KEYS, KEYSTORES, Change, changed_files
from components.describe.comment import (
    LONG_AGO,
    Checkouts,
    Comment,
    describe,
    not_described,
    version_of,
)

STACKS = "stacks"
NAME = re.compile(r"Pulumi\.([A-Za-z0-9][A-Za-z0-9._-]{0,99})\.yaml")
NOBODYS = "lab"
"""The lab's stack, which exposes nobody's server; it is described only if its own file changes."""

QUIET = frozenset({"settings", KEYS, dict(AREAS)["docs/"]})
"""Areas whose files change no stack, except a stack's own file and keystore."""


def stacks(project: Path) -> set[str]:
    """Return the names of a checkout's stacks; the engine ignores files with other names too."""
    try:
        names = os.listdir(project / STACKS)
    except OSError:
        return set()
    return {found[1] for name in names if (found := NAME.fullmatch(name))}


def concerned(checkouts: Checkouts, files: Sequence[Change]) -> list[str]:
    """Return the stacks that a change to these files affects, by name."""
    known = stacks(checkouts.old) | stacks(checkouts.new)
    own = {stack for stack in known if any(_is_of(stack, change.path) for change in files)}
    if all(change.area in QUIET for change in files):
        return sorted(own)
    return sorted(own | known - {NOBODYS})


def _is_of(stack: str, path: str) -> bool:
    return path == path_of(stack) or path.startswith(f"{KEYSTORES}/{stack}/")


def path_of(stack: str) -> str:
    """Return the path of a stack's file in a checkout."""
    return f"{STACKS}/Pulumi.{stack}.yaml"


def comments(checkouts: Checkouts, links: str) -> Iterator[tuple[str, Comment]]:
    """Yield each stack that a change concerns, with its comment.

    A stranger's change can contain anything. If it triggers a bug of ours, the comment says so. Without a new
    comment, the one about an earlier, harmless state would stay.
    """
    try:
        concerned_stacks = concerned(checkouts, changed_files(checkouts.old, checkouts.new))
    except Exception:  # noqa: BLE001 - a bug must not leave an older comment in place
        traceback.print_exc()
        for stack in sorted(stacks(checkouts.old) | stacks(checkouts.new)):
            yield stack, not_described(stack)
        return
    for stack in concerned_stacks:
        try:
            yield stack, _comment(checkouts, stack, links)
        except Exception:  # noqa: BLE001 - a bug must not leave an older comment in place
            traceback.print_exc()
            yield stack, not_described(stack)


def _comment(checkouts: Checkouts, stack: str, links: str) -> Comment:
    path = path_of(stack)
    return describe(
        version_of(checkouts.old / path, stack, now=LONG_AGO, project=checkouts.old),
        version_of(checkouts.new / path, stack, project=checkouts.new),
        stack,
        checkouts,
        links,
    )


def main(arguments: Sequence[str]) -> int:
    """Write OUT/STACK.md for each stack, and print their names.

    Returns 0; 1 if `pulumi up` would refuse one of them; 2 for wrong arguments.
    """
    parser = argparse.ArgumentParser(prog="python -m components.describe.all_stacks", description=__doc__)
    parser.add_argument("old", type=Path, metavar="OLD", help="the checkout before the change")
    parser.add_argument("new", type=Path, metavar="NEW", help="the checkout after the change, never run")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for the comments")
    parser.add_argument("--links", default="", help="address of the page that shows the files' diffs")
    options = parser.parse_args(arguments)
    asyncio.set_event_loop(asyncio.new_event_loop())  # the SDK's outputs need one
    checkouts = Checkouts(options.old, options.new)
    options.out.mkdir(parents=True, exist_ok=True)
    refused = False
    for stack, comment in comments(checkouts, options.links):
        (options.out / f"{stack}.md").write_text(comment.text, encoding="utf-8")
        print(stack)
        refused = refused or comment.refused
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
