"""Visitors who are banned by lists, from the config to the last request: two runs."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import Lab
from pki import Keystore
from tests.lab.operator import PASSPHRASE, Operator
from tests.lab.outside import FORBIDDEN, REFUSED, seen
from tests.server.mmdb import write_database
from toolchain.paths import PROJECT

pytestmark = pytest.mark.lab

PAGE, PING = "/api/server/config", "/api/server/ping"
KEY = "a-key-that-only-crowdsec-knows"
ADDRESS = "http://127.0.0.1:8089"
CHINA, LISTED, DECIDED, OTHER = "203.0.113.70", "203.0.113.80", "203.0.113.90", "203.0.113.98"
DATABASE, NETWORKS, DECISIONS = "/etc/lists/countries.mmdb", "/etc/lists/networks.txt", "/etc/lists/decisions"
LOOPBACK = {"127.0.0.0/8", "::1/128"}
EVERYWHERE = "/var/lib/immich-exposure /var/log /run/immich-edge /etc/nixos"


@pytest.fixture(scope="module")
def operator(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    """An operator who bans a country, a network, and what a CrowdSec on the server decides."""
    folder = tmp_path_factory.mktemp("lists")
    operator = Operator(folder, lab.info(), stack="lists", more={"crowdsecKey": KEY})
    operator.set(
        banLists={
            "countries": ["CN"],
            "countryDatabase": DATABASE,
            "networks": [NETWORKS],
            "crowdsec": ADDRESS,
        }
    )
    operator.devices("phone")
    operator.init()
    yield operator
    operator.destroy()
    lab.console("systemctl stop crowdsec-standin; rm -rf /etc/lists")
    assert lab.console("ls /var/lib/immich-exposure").returncode != 0


def put(lab: Lab, path: str, content: bytes) -> None:
    """Put a file on the server."""
    text = base64.b64encode(content).decode()
    done = lab.console(f"mkdir -p {path.rpartition('/')[0]} && base64 -d >{path}", text=text)
    assert done.returncode == 0, done.stderr


def crowdsec(lab: Lab) -> None:
    """Start the stand-in for CrowdSec on the server."""
    put(lab, "/etc/lists/crowdsec.py", (PROJECT / "tests/server/crowdsec.py").read_bytes())
    put(lab, "/etc/lists/key", KEY.encode())
    put(lab, DECISIONS, f"{DECIDED}\n192.168.1.7\n".encode())
    program = f"python3 /etc/lists/crowdsec.py 8089 /etc/lists/key {DECISIONS}"
    done = lab.console(f"systemd-run --unit=crowdsec-standin {program}")
    assert done.returncode == 0, done.stderr


def met(lab: Lab, *sources: str) -> list[str]:
    return [seen(lab, PAGE, source=source) for source in sources]


def reach(lab: Lab, address: str) -> set[str]:
    """Return which networks the unit that asks CrowdSec may talk to, once it has started with an address."""
    conf, unit = "/var/lib/immich-exposure/settings/lists.conf", "immich-exposure-crowdsec"
    change = f"sed -i 's|^crowdsec .*|crowdsec {address}|' {conf} && systemctl restart {unit}"
    done = lab.console(f"{change} && systemctl show --property=IPAddressAllow --value {unit}")
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_the_sources_are_looked_at_before_anything_is_changed(lab: Lab, operator: Operator) -> None:
    put(lab, NETWORKS, b"203.0.113.80/29\nexample.org\n")
    wrong = (
        f"banLists: {DATABASE} is not on the server.",
        f"banLists: {NETWORKS} is damaged: line 2 is not a network.",
        f"banLists: CrowdSec at {ADDRESS} does not answer; start it",
    )
    preview = " ".join(operator.preview().split())
    assert "visitors from 1 country (CN) are turned away" in preview
    for said in wrong:
        assert said in preview
    refused = " ".join(operator.fails().split())
    for said in wrong:
        assert said in refused
    assert lab.console("ls /var/lib/immich-exposure").returncode != 0


def test_who_is_on_a_list_is_turned_away_until_the_list_goes(
    lab: Lab, operator: Operator, tmp_path: Path
) -> None:
    database = tmp_path / "countries.mmdb"
    write_database(database, {"203.0.113.64/28": "CN", "203.0.113.96/28": "DE"})
    put(lab, DATABASE, database.read_bytes())
    put(lab, NETWORKS, b"203.0.113.80/29\n")
    crowdsec(lab)
    operator.up()
    assert met(lab, CHINA, LISTED, DECIDED) == [REFUSED] * 3
    assert met(lab, OTHER) == ["200"]
    [phone] = Keystore(operator.keystore).probe_credentials()
    assert seen(lab, PING, source=CHINA, credential=phone, passphrase=PASSPHRASE) == "200"

    said = " ".join(lab.console(f"immich-exposure bans; immich-exposure bans {DECIDED}").stdout.split())
    assert "countries 1 network banned: CN, by /etc/lists/countries.mmdb of " in said
    assert "192.168.1.7/32, is a network at home" in said
    assert f"{DECIDED} is banned: crowdsec ({DECIDED}/32, crowdsecurity/http-probing)" in said
    assert f"The edge hangs up on a visitor from {DECIDED}" in said

    # What has become useless changes nothing, and is named.
    put(lab, DATABASE, b"no database")
    put(lab, DECISIONS, b"203.0.113.91\n")
    assert lab.console("systemctl start immich-exposure-lists").returncode == 0
    deadline = time.monotonic() + 40
    while met(lab, DECIDED, "203.0.113.91") != ["200", REFUSED] and time.monotonic() < deadline:
        time.sleep(1)
    assert met(lab, DECIDED, "203.0.113.91", CHINA, LISTED, OTHER) == ["200", *[REFUSED] * 3, "200"]
    status = lab.console("immich-exposure status").stdout
    assert "OUT OF DATE, 1 network banned as on" in status
    lists = json.loads(lab.console("immich-exposure status --json").stdout)["lists"]
    assert lists["countries"] == {"state": "kept", "networks": 1}
    preview = " ".join(operator.preview().split())
    assert "The ban list countries is out of date, and keeps 1 network banned" in preview

    assert reach(lab, "http://10.99.99.9:8089") == {"10.99.99.9/32", *LOOPBACK}
    assert reach(lab, ADDRESS) == LOOPBACK

    shown = lab.console(f"grep -rl {KEY} {EVERYWHERE}").stdout.split()
    assert shown == ["/var/lib/immich-exposure/settings/crowdsec.key"]
    mode = lab.console(f"stat -c '%a %U' {shown[0]}").stdout
    assert mode == "600 root\n"
    assert KEY not in operator.export() and KEY not in "".join(operator.log)

    operator.set(banLists=None)
    operator.secrets.pop("crowdsecKey")
    operator.up()
    assert met(lab, CHINA, LISTED, "203.0.113.91") == ["200"] * 3
    left = lab.console("find /var/lib/immich-exposure -name '*crowdsec*' -o -path '*/lists/*'").stdout
    assert left == "" and seen(lab, PING, source=CHINA) == FORBIDDEN
