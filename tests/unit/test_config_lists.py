"""`banLists`: whom lists ban, a sentence for each mistake, and the words that a preview shows."""

from __future__ import annotations

from typing import Any

import pytest

from components.config.lists import COUNTRIES
from components.config.stack_config import ConfigError, ExposureConfig, load
from components.describe.public_surface import BANNED, public_surface

MINIMAL = {
    "host": "192.168.1.20",
    "hostKey": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAICd9Sn/CrLavrIHzvx3RuZLyh4tRBT7PQTx533eBaTsJ",
    "keystorePassphrase": "twelve or more characters",
}
FILE = "/var/lib/GeoIP/GeoLite2-Country.mmdb"
HOME = {"crowdsec": "http://127.0.0.1:8080"}


def config_of(lists: object, **more: Any) -> ExposureConfig:
    return load({**MINIMAL, "banLists": lists, **more}, stack="unit", project_dir=None)


def problems_of(lists: object, **more: Any) -> list[str]:
    with pytest.raises(ConfigError) as refusal:
        config_of(lists, **more)
    return list(refusal.value.problems)


@pytest.mark.parametrize("nothing", [None, {}, "", {"networks": []}, {"countries": []}])
def test_without_lists_nothing_is_asked_for_and_nothing_is_said(nothing: object) -> None:
    config = config_of(nothing)
    assert config.ban_lists is None and config.crowdsec_key is None
    assert BANNED not in public_surface(config)


def test_the_server_is_told_line_by_line() -> None:
    group = {
        "countries": ["RU", "CN", "CN"],
        "countryDatabase": FILE,
        "networks": ["/a.txt", "/b.txt"],
        **HOME,
    }
    lists = config_of(group, crowdsecKey="a-key-of-a-bouncer").ban_lists
    assert lists is not None and lists.lines() == (
        f"countries CN RU\ndatabase {FILE}\ndatabase-days 45\nnetworks /a.txt\nnetworks /b.txt\n"
        "networks-days 0\ncrowdsec http://127.0.0.1:8080\n"
    )
    lists = config_of({"onlyCountries": ["DE"], "countryDatabase": FILE, "countryDays": 10}).ban_lists
    assert lists is not None and lists.lines() == f"only-countries DE\ndatabase {FILE}\ndatabase-days 10\n"


@pytest.mark.parametrize(
    ("address", "kept"),
    [
        ("http://localhost:8080/", "http://127.0.0.1:8080"),
        ("http://192.168.1.5:8080", "http://192.168.1.5:8080"),
        ("https://[FD7A:115C:A1E0::5]:8080", "https://[fd7a:115c:a1e0::5]:8080"),
        ("http://100.100.1.2:8080", "http://100.100.1.2:8080"),
    ],
)
def test_crowdsec_is_at_home(address: str, kept: str) -> None:
    lists = config_of({"crowdsec": address}, crowdsecKey="a-key-of-a-bouncer").ban_lists
    assert lists is not None and lists.crowdsec == kept


@pytest.mark.parametrize(
    ("lists", "key", "words"),
    [
        ("CN", "banLists", "must be a group of settings"),
        ({"country": ["CN"]}, "banLists.country", "is not a known key"),
        ({"countries": "CN", "countryDatabase": FILE}, "banLists.countries", "must be a list of texts"),
        ({"countries": [False], "countryDatabase": FILE}, "banLists.countries", "put them in quotes"),
        (
            {"countries": ["UK"], "countryDatabase": FILE},
            "banLists.countries",
            "'UK' is not the code of a country",
        ),
        ({"countries": ["cn"], "countryDatabase": FILE}, "banLists.countries", "write 'CN'"),
        ({"countries": ["CHN"], "countryDatabase": FILE}, "banLists.countries", "two capital letters"),
        ({"countries": ["CN"]}, "banLists.countryDatabase", "name one in MaxMind's format"),
        ({"countryDatabase": FILE}, "banLists.countries", "the database alone bans nobody"),
        (
            {"countries": ["CN"], "onlyCountries": ["DE"], "countryDatabase": FILE},
            "banLists.onlyCountries",
            "set one of the two",
        ),
        ({"countries": ["CN"], "countryDatabase": "GeoIP.mmdb"}, "banLists.countryDatabase", "absolute path"),
        ({"countries": ["CN"], "countryDatabase": "/home/a/x"}, "banLists.countryDatabase", "cannot see"),
        (
            {"countries": ["CN"], "countryDatabase": FILE, "countryDays": 0},
            "banLists.countryDays",
            "from 1 to 3650",
        ),
        ({"networks": ["/tmp/list"]}, "banLists.networks", "'/tmp/list' is in a folder that the service"),
        ({"networks": ["/etc/a b"]}, "banLists.networks", "may hold letters"),
        ({"networks": ["/etc/../x"]}, "banLists.networks", "absolute path of a file on the server"),
        ({"networks": [f"/{at}" for at in range(21)]}, "banLists.networks", "more than 20 files"),
        ({"networkDays": 3, **HOME}, "banLists.networkDays", "networks is not set; leave it out"),
        ({"crowdsec": "127.0.0.1:8080"}, "banLists.crowdsec", "must be http:// or https://"),
        ({"crowdsec": "http://crowdsec.lan:8080"}, "banLists.crowdsec", "looks up no names"),
        ({"crowdsec": "http://9.9.9.9:8080"}, "banLists.crowdsec", "must be on the server, in its network"),
        ({"crowdsec": "http://0.0.0.0:8080"}, "banLists.crowdsec", "must be on the server, in its network"),
        ({"crowdsec": "http://[fe80::1%<b>]:8080"}, "banLists.crowdsec", "has a zone"),
        ({"crowdsec": "http://127.0.0.1:8080/v1"}, "banLists.crowdsec", "nothing after it"),
        ({"crowdsec": "http://u:geheim@127.0.0.1:8080"}, "banLists.crowdsec", "nothing after it"),
        ({"crowdsec": "http://[::1:8080"}, "banLists.crowdsec", "is not an address"),
    ],
)
def test_what_is_wrong_is_told_with_an_example(lists: object, key: str, words: str) -> None:
    more = (
        {"crowdsecKey": "a-key-of-a-bouncer"}
        if "crowdsec" in str(lists) or "networkDays" in str(lists)
        else {}
    )
    [problem] = problems_of(lists, **more)
    assert problem.startswith(key) and words in problem, problem


@pytest.mark.parametrize(
    ("lists", "key", "words"),
    [
        (HOME, None, "`sudo cscli bouncers add immich-exposure` creates one"),
        ({}, "a-key-of-a-bouncer", "is for banLists.crowdsec, which is not set"),
        (HOME, "a key", "must be a key as `cscli bouncers add` prints it"),
        (HOME, 12345678, "in quotes"),
    ],
)
def test_the_key_and_the_address_belong_together(lists: object, key: object, words: str) -> None:
    [problem] = problems_of(lists, crowdsecKey=key)
    shown = "is not set" if key is None else "= [secret]"
    assert problem.startswith(f"crowdsecKey {shown}: ") and words in problem, problem


def test_a_preview_says_who_is_turned_away_and_who_is_not() -> None:
    group = {"countries": ["RU", "CN"], "countryDatabase": FILE, "networks": ["/etc/blocklist.txt"], **HOME}
    words = public_surface(config_of(group, crowdsecKey="a-key-of-a-bouncer"))[BANNED]
    assert words == {
        "countries": "visitors from 2 countries (CN, RU) are turned away",
        "database": f"`{FILE}` on the server says which country a visitor is in",
        "networks": "visitors from 1 network list are turned away (`/etc/blocklist.txt`)",
        "crowdsec": "visitors that CrowdSec at `http://127.0.0.1:8080` has banned are turned away",
        "nobody else": "visitors on no list, or in no known country, get in; devices and frames always do",
        "links": "listed visitors are turned away even if they have a link open",
    }
    words = public_surface(config_of({"onlyCountries": ["DE"], "countryDatabase": FILE}))[BANNED]
    assert words["countries"] == "visitors from every country but DE are turned away"
    many = [code for code in sorted(COUNTRIES) if code != "DE"]
    words = public_surface(config_of({"countries": many, "countryDatabase": FILE}))[BANNED]
    assert words["countries"].startswith(f"visitors from {len(many)} countries (AD, AE, ")
    assert words["countries"].endswith(f" and {len(many) - 12} more) are turned away")
