"""Who opened what, from the config to the page, with a canary that must not appear anywhere: two runs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from components.remote.remote_script import Server
from components.remote.server_report import report
from lab import Lab
from tests.lab.operator import Operator
from tests.lab.outside import REFUSED, seen
from tests.lab.secrets_walk import found_in, found_in_files
from tests.lab.snapshot import output

pytestmark = pytest.mark.lab

CANARIES = {
    "the key of a link": "CanaryKey_ofTheLab-7d1f4c0a9be2",
    "the slug of a link": "canary-slug-of-the-lab",
    "the password of a link": "canary password of the lab",
}
"""What opens a link of the stub's (CANARY in lab/stub/stub_immich.py)."""
READS_LINKS, READS_ALBUMS, ALL = "labreadslinks", "labreadsalbums", "labapikey"
KNOWN_TO_IMMICH = ("/var/lib/immich-stub/", "/opt/lab-stub/")
STATE = "/var/lib/immich-exposure"
ME, LOGIN = "/api/shared-links/me", "/api/shared-links/login"
REPORT = (
    "Of 6 shared links, 4 never expire, 1 has no password and allows uploads, 2 have no password, 5 show "
    "metadata (where and when photos were taken), 1 has expired and is still there."
)


@pytest.fixture(scope="module")
def operator(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    """An operator who wants to know, and whose channel takes no notice, so that all of them wait."""
    operator = Operator(tmp_path_factory.mktemp("who"), lab.info(), stack="who")
    operator.set(who=True, notify={"kind": "webhook", "address": "http://127.0.0.1:9/"})
    operator.devices("phone")
    operator.secrets["immichApiKey"] = READS_LINKS
    operator.init()
    operator.up()
    yield operator
    operator.destroy()
    assert seen(lab, "/api/server/ping") == REFUSED
    assert lab.console(f"ls {STATE} /var/log/immich-edge").stdout == ""


def server_of(ssh: dict[str, Any]) -> Server:
    """Return how the lab's server is reached."""
    return Server(ssh["host"], ssh["port"], ssh["user"], ssh["host_key"], ssh["private_key_file"])


def post(lab: Lab, path: str, data: bytes, visitor: str) -> str:
    kind = {"Content-Type": "application/json"}
    return seen(lab, path, source=visitor, method="POST", headers=kind, data=data)


def words(text: str) -> str:
    return " ".join(text.split())


def test_a_link_is_opened_and_counted_and_what_opens_it_is_seen_nowhere(lab: Lab, operator: Operator) -> None:
    assert REPORT in words("".join(operator.log)), "the first run tells what the links allow"
    key, slug, password = CANARIES.values()
    login = json.dumps({"password": password}).encode()
    for number in range(3):
        visitor = f"203.0.113.{20 + number}"
        assert seen(lab, f"/share/{key}", source=visitor) == "200"
        assert seen(lab, f"{ME}?key={key}", source=visitor) == "401"
        for asked in (f"key={key}", f"slug={slug}"):
            assert post(lab, f"{LOGIN}?{asked}", login, visitor) == "201"
        assert post(lab, f"/api/download/archive?slug={slug}", b"{}", visitor) == "200"
    assert seen(lab, f"{ME}?key=labsharekey") == "200"

    output(lab, "sudo systemctl start immich-exposure-who.service")
    table = output(lab, "sudo immich-exposure who")
    # Opened by its key and by its slug, and one link all the same.
    assert re.search(r"^Canary album \([0-9a-f]{8}\) +6 +3 +0 \d{4}-", table, re.MULTILINE), table
    assert re.search(r"^Holiday \([0-9a-f]{8}\) +1 +0 +0 \d{4}-", table, re.MULTILINE), table
    assert re.search(r"^phone +\d{4}-\d\d-\d\d \d\d:\d\d \d", table, re.MULTILINE), "it was proven"
    assert REPORT in words(table)
    assert max(map(len, table.splitlines())) <= 80
    assert report(server_of(lab.info()["ssh"]), "who").strip() == table, "and so does make who"
    page = output(lab, "sudo immich-exposure who --html")
    assert page.startswith("<!doctype html>") and "Canary album" in page and "<script" not in page
    links = output(lab, "sudo immich-exposure links")
    assert re.search(r"^Canary album \([0-9a-f]{8}\) +2099-01-01 yes +no ", links, re.MULTILINE), links

    status = lab.console("immich-exposure status").stdout
    assert re.search(r"^who +7 opens of 3 shared links", status, re.MULTILINE), status
    assert json.loads(lab.console("immich-exposure status --json").stdout)["who"] == {"links": 3, "opens": 7}
    notices = output(lab, f"sudo sh -c 'cat {STATE}/notices/waiting/*'")
    assert len(re.findall("The shared link [0-9a-f]{16} was opened for the first time", notices)) == 3
    assert REPORT in notices and "Canary" not in notices and "Holiday" not in notices

    shown = [table, page, links, status, notices, operator.export(), *operator.log]
    assert found_in("\n".join(shown), CANARIES | {"the API key": READS_LINKS}) == []
    found = found_on(lab, CANARIES | {"the API key": READS_LINKS})
    assert found == [f"{STATE}/who/api-key: the API key"]
    assert output(
        lab, f"sudo stat -c '%a %U:%G' {STATE}/who/api-key {STATE}/who/summary {STATE}/who/key"
    ) == ("600 root:root\n600 root:root\n640 root:immich-edge")


def found_on(lab: Lab, secrets: dict[str, str]) -> list[str]:
    """Return where on the whole server secrets are, but for Immich itself: files, memory and journal."""
    root = lab.places.upper
    files = [file for file in root.rglob("*") if file.is_file() and not file.is_symlink()]
    places = {str(file).removeprefix(str(root)): file for file in files}
    assert "/var/log/immich-edge/access.log" in places, "this is not where the server's files lie"
    looked = [file for place, file in places.items() if not place.startswith(KNOWN_TO_IMMICH)]
    journal = lab.console("journalctl --no-pager -o cat").stdout
    volatile = lab.console(
        "find /run /tmp /dev/shm -type f -size -2048k -exec cat {} + | tr -cd '[:print:]\\n'"
    )
    assert journal and volatile.stdout
    found = found_in_files(map(Path, looked), secrets) + found_in(journal + volatile.stdout, secrets)
    # The server's own keys are none of this test's business.
    return [each.removeprefix(str(root)) for each in found if not each.endswith("a private key")]


def test_a_key_that_may_do_less_or_more_is_named_and_all_is_forgotten_when_nobody_asks(
    lab: Lab, operator: Operator
) -> None:
    for key, sentence in (
        (READS_ALBUMS, "lacks the permission sharedLink.read"),
        ("nobodysKey", "Immich refuses the API key"),
        (ALL, "has more permissions than it needs (all)"),
    ):
        operator.set_secret("immichApiKey", key)
        assert sentence in words(operator.preview()), key
    operator.set(who=None)
    operator.drop_secret("immichApiKey")
    operator.up()
    assert lab.console(f"ls {STATE}/who").stdout == ""
    assert "opens of" not in lab.console("immich-exposure status").stdout
    assert "set who: true" in lab.console("immich-exposure who").stderr
