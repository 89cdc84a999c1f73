"""What the API of Immich offers, read from its own SDK: `python -m tests.server.immich_sdk` reads it anew.

`@immich/sdk` on npm is generated from Immich's OpenAPI document, one function for each operation. The script
downloads the newest version of each supported series, reads the functions and writes
`server/immich-operations.json`. The tests compare that list with the table of the surface, and, at night, the
list with what npm has that day.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import asdict
from pathlib import Path

from components.surface import supported_versions
from components.surface.supported_versions import parse_version
from components.surface.table import OPERATIONS_FILE, Operation

PACKAGE = "@immich/sdk"
CLIENT = "package/build/fetch-client.js"
NPM_TIMEOUT_SECONDS = 120

_FUNCTION = re.compile(
    r"^export function (\w+)\((?:\{([^}]*)\}, )?opts\) \{\n(.*?)^\}", re.MULTILINE | re.DOTALL
)
_PATH = re.compile(r"oazapfts\.fetch\w+\((?:\"([^\"]*)\"|`(.*?)`)[,)]", re.DOTALL)
_METHOD = re.compile(r"^\s*method: \"([A-Z]+)\"", re.MULTILINE)
_PARAMETER = re.compile(r"\$\{encodeURIComponent\(\$?(\w+)\)\}")


class SdkError(RuntimeError):
    """The SDK cannot be had, or is not written as this reader expects."""


def read_operations(client: str) -> list[Operation]:
    """Return the operations in the text of the SDK's fetch-client.js, sorted by name.

    Raises:
        SdkError: when a function that fetches cannot be read.
    """
    found = [_operation(*match.groups()) for match in _FUNCTION.finditer(client)]
    fetching = client.count("oazapfts.fetch")
    if not found or len(found) != fetching:
        raise SdkError(f"The SDK fetches in {fetching} places, but {len(found)} operations could be read.")
    return sorted(found)


def _operation(name: str, parameters: str | None, body: str) -> Operation:
    path = _PATH.search(body)
    if path is None:
        raise SdkError(f"The path of the operation {name} cannot be read.")
    plain, template = path.groups()
    text = plain or _PARAMETER.sub(r"{\1}", template.split("${QS.")[0])
    if "$" in text:
        raise SdkError(f"The path of the operation {name} has an unknown part: {text}.")
    method = _METHOD.search(body)
    names = {parameter.strip() for parameter in (parameters or "").split(",")}
    return Operation(name, method.group(1) if method else "GET", text, {"key", "slug"} <= names)


def download(version: str) -> list[Operation]:
    """Return the operations of a version on npm, e.g. `3.2.2`; raises SdkError when it cannot be had."""
    with tempfile.TemporaryDirectory() as folder:
        _npm("pack", f"{PACKAGE}@{version}", "--silent", "--pack-destination", folder)
        [archive] = Path(folder).glob("*.tgz")
        with tarfile.open(archive) as package:
            member = package.extractfile(CLIENT)
            if member is None:
                raise SdkError(f"{PACKAGE} {version} holds no {CLIENT}.")
            return read_operations(member.read().decode())


def supported_releases() -> list[str]:
    """Return the released versions from the lowest supported Immich on, oldest first.

    Raises SdkError without npm.
    """
    offered: list[str] = json.loads(_npm("view", PACKAGE, "versions", "--json"))
    lowest = supported_versions.load()["immich"].lowest
    released = {parsed: text for text in offered if "-" not in text and (parsed := parse_version(text))}
    return [text for version, text in sorted(released.items()) if version >= lowest]


def newest_versions() -> list[str]:
    """Return the newest supported version of each series; raises SdkError without npm."""
    return list({version.split(".")[0]: version for version in supported_releases()}.values())


def _npm(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["npm", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=True,
            timeout=NPM_TIMEOUT_SECONDS,
        )
    except FileNotFoundError as problem:
        raise SdkError("npm is missing; install Node.js with npm.") from problem
    except subprocess.SubprocessError as problem:
        raise SdkError(f"npm {arguments[0]} failed: {problem}") from problem
    return done.stdout


def write(versions: dict[str, list[Operation]]) -> None:
    """Write the list, one operation a line, so that a difference between versions can be read."""
    blocks = [
        f'"{version}": [\n' + ",\n".join(json.dumps(asdict(each)) for each in operations) + "\n]"
        for version, operations in versions.items()
    ]
    OPERATIONS_FILE.write_text("{\n" + ",\n".join(blocks) + "\n}\n", encoding="utf-8")


def main() -> int:
    """Refresh the list from npm and say what it holds."""
    argparse.ArgumentParser(
        prog="python -m tests.server.immich_sdk",
        description="Download Immich's SDK from npm, and write server/immich-operations.json from it.",
    ).parse_args()
    versions = {version: download(version) for version in newest_versions()}
    write(versions)
    for version, operations in versions.items():
        links = sum(each.link for each in operations)
        print(f"{PACKAGE} {version}: {len(operations)} operations, {links} take the key of a link")
    return 0


if __name__ == "__main__":
    sys.exit(main())
