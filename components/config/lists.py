"""Ban lists: countries, networks, and CrowdSec's decisions."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection
from dataclasses import dataclass
from urllib.parse import urlsplit

import pulumi

from components.config.checks import config_dir_problem
from components.config.reader import Section
from components.config.secret import IN_PLAIN_TEXT, read_secret, report_secret

GROUP = "banLists"
KEY = "crowdsecKey"
EXAMPLE = "{countries: [CN, RU], countryDatabase: /var/lib/GeoIP/GeoLite2-Country.mmdb}"
ADDRESS_EXAMPLE = "http://127.0.0.1:8080"

COUNTRY_DAYS = 45
"""Maximum age of a country database in days: MaxMind's appears twice a week, DB-IP's once a month."""

MOST_FILES = 20
"""Maximum number of network lists; one file with many lines does the same as many files."""

_CODES = """
AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN BO BQ BR BS
BT BV BW BY BZ CA CC CD CF CG CH CI CK CL CM CN CO CR CU CV CW CX CY CZ DE DJ DK DM DO DZ EC EE
EG EH ER ES ET FI FJ FK FM FO FR GA GB GD GE GF GG GH GI GL GM GN GP GQ GR GS GT GU GW GY HK HM
HN HR HT HU ID IE IL IM IN IO IQ IR IS IT JE JM JO JP KE KG KH KI KM KN KP KR KW KY KZ LA LB LC
LI LK LR LS LT LU LV LY MA MC MD ME MF MG MH MK ML MM MN MO MP MQ MR MS MT MU MV MW MX MY MZ NA
NC NE NF NG NI NL NO NP NR NU NZ OM PA PE PF PG PH PK PL PM PN PR PS PT PW PY QA RE RO RS RU RW
SA SB SC SD SE SG SH SI SJ SK SL SM SN SO SR SS ST SV SX SY SZ TC TD TF TG TH TJ TK TL TM TN TO
TR TT TV TW TZ UA UG UM US UY UZ VA VC VE VG VI VN VU WF WS YE YT ZA ZM ZW XK
"""
COUNTRIES = frozenset(_CODES.split())
"""ISO 3166-1 (as in the time zone database), and XK, which databases use for Kosovo."""

_OTHER_NAMES = {"UK": "GB", "EL": "GR"}

UNSEEN = ("/home", "/root", "/run/user", "/tmp", "/var/tmp", "/var/lib/immich-exposure")
"""Folders that the unit which reads the lists cannot see (server/nix/lists.nix)."""

_KEY_TEXT = re.compile(r"[A-Za-z0-9+/=_.~-]{8,200}")

_TAILNET = tuple(map(ipaddress.ip_network, ("100.64.0.0/10", "fd7a:115c:a1e0::/48")))


@dataclass(frozen=True)
class BanLists:
    """Sources of ban lists; files are paths on the server.

    `countries` are refused, or with `only` all others; `database` maps networks to countries and is at most
    `database_days` old. `networks` are files of networks, at most `networks_days` old (0: any age).
    `crowdsec` is the address of its local API; None if it is not used.
    """

    countries: tuple[str, ...]
    only: bool
    database: str | None
    database_days: int
    networks: tuple[str, ...]
    networks_days: int
    crowdsec: str | None

    def lines(self) -> str:
        """Return lists.conf as the server stores it: one word and its value per line."""
        lines: list[str] = []
        if self.database is not None:
            word = "only-countries" if self.only else "countries"
            lines += [f"{word} {' '.join(self.countries)}", f"database {self.database}"]
            lines.append(f"database-days {self.database_days}")
        lines += [f"networks {path}" for path in self.networks]
        if self.networks:
            lines.append(f"networks-days {self.networks_days}")
        if self.crowdsec is not None:
            lines.append(f"crowdsec {self.crowdsec}")
        return "".join(f"{line}\n" for line in lines)


def read_ban_lists(top: Section) -> BanLists | None:
    """Read the group `banLists`; None if no list is set."""
    if not top.value(GROUP):
        return None
    section = top.section(GROUP, example=EXAMPLE)
    only = section.value("onlyCountries") is not None
    countries = _countries(section, "onlyCountries" if only else "countries")
    if only and section.value("countries") is not None:
        section.report(
            "onlyCountries",
            "is set together with countries; set one of the two",
            "[DE, AT, CH], without countries",
        )
    lists = BanLists(
        countries=countries,
        only=only,
        database=section.optional_text(
            "countryDatabase", example="/var/lib/GeoIP/GeoLite2-Country.mmdb", check=file_problem
        ),
        database_days=section.integer("countryDays", default=COUNTRY_DAYS, least=1, most=3650),
        networks=_files(section),
        networks_days=section.integer("networkDays", default=0, least=0, most=3650),
        crowdsec=_crowdsec(section),
    )
    _check_countries(section, lists)
    if lists.networks_days and not lists.networks and not section.problems.has(section.name("networks")):
        section.report(
            "networkDays", "limits the age of the files in networks, and networks is not set", None
        )
    section.refuse_unknown()
    return lists if lists.lines() or section.problems.lines else None


def _check_countries(section: Section, lists: BanLists) -> None:
    key = "onlyCountries" if lists.only else "countries"
    if section.problems.has(section.name(key), section.name("countryDatabase")):
        return
    if lists.countries and lists.database is None:
        section.report(
            "countryDatabase",
            "countries are looked up in a file on the server; name one in MaxMind's format (.mmdb)",
            "/var/lib/GeoIP/GeoLite2-Country.mmdb",
        )
    elif lists.database is not None and not lists.countries:
        section.report("countries", "the database alone bans nobody; name countries", "[CN, RU]")


def _texts(section: Section, key: str, example: str) -> list[str]:
    value = section.value(key)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        # YAML reads a bare NO as false.
        section.report(key, "must be a list of texts; put them in quotes", example)
        return []
    return value


def _countries(section: Section, key: str) -> tuple[str, ...]:
    codes = _texts(section, key, '["CN", "RU"]')
    for code in codes:
        if code not in COUNTRIES:
            other = _OTHER_NAMES.get(code) or (code.upper() if code.upper() in COUNTRIES else None)
            hint = f"; write {other!r}" if other else ""
            section.report(
                key, f"{code!r} is not the code of a country (two capital letters, ISO 3166){hint}", '["CN"]'
            )
            return ()
    return tuple(sorted(set(codes)))


def file_problem(text: str) -> str | None:
    """Say why a path cannot be that of a list on the server."""
    if (problem := config_dir_problem(text)) is not None:
        return problem.replace("the folder of configuration.nix", "a file")
    if any(text == folder or text.startswith(f"{folder}/") for folder in UNSEEN):
        return "is in a folder that the service cannot see; move it to /etc or /var/lib, for example"
    return None


def _files(section: Section) -> tuple[str, ...]:
    paths = _texts(section, "networks", "[/etc/blocklist.txt]")
    for path in paths:
        if (problem := file_problem(path)) is not None:
            section.report("networks", f"{path!r} {problem}", "[/etc/blocklist.txt]")
            return ()
    if len(paths) > MOST_FILES:
        section.report("networks", f"names more than {MOST_FILES} files", "[/etc/blocklist.txt]")
        return ()
    return tuple(dict.fromkeys(paths))


def _crowdsec(section: Section) -> str | None:
    text = section.optional_text("crowdsec", example=ADDRESS_EXAMPLE, check=crowdsec_problem)
    return None if text is None else text.rstrip("/").lower().replace("//localhost", "//127.0.0.1")


def crowdsec_problem(text: str) -> str | None:
    """Say what is wrong with the address of CrowdSec's local API.

    The unit that asks it talks only to this address and resolves no names.
    """
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname or "", parts.port
        plain = parts.path in ("", "/") and not (parts.query or parts.fragment or parts.username)
    except ValueError:
        return "is not an address"
    if parts.scheme not in ("http", "https") or not plain or not host:
        return "must be http:// or https://, an IP address and a port, and nothing after it"
    if host == "localhost":
        return None
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return "must have an IP address, not a name, because the service that asks it looks up no names"
    if isinstance(address, ipaddress.IPv6Address) and address.scope_id is not None:
        return "has a zone (after %), which the service that asks it cannot use; name another address"
    at_home = address.is_private or address.is_loopback or any(address in net for net in _TAILNET)
    if not at_home or address.is_unspecified:
        return "must be on the server, in its network or in the tailnet, where CrowdSec's local API belongs"
    return None


def read_crowdsec_key(top: Section) -> pulumi.Output[str] | None:
    """Read the API key of this bouncer for CrowdSec; None if it is not set."""
    return read_secret(top, KEY)


def check_crowdsec_key(top: Section, lists: BanLists | None, secret_keys: Collection[str]) -> None:
    """Check the key in plain text; no message may contain it."""
    value = top.value(KEY)
    asked = lists is not None and lists.crowdsec is not None
    if value is None:
        if not asked:
            return
        reason = "CrowdSec only answers with a key; `sudo cscli bouncers add immich-exposure` creates one"
    elif not isinstance(value, str) or not _KEY_TEXT.fullmatch(value):
        reason = "must be a key as `cscli bouncers add` prints it, in quotes"
    elif KEY not in secret_keys:
        reason = f"{IN_PLAIN_TEXT}; create a new one"
    elif not asked and not top.problems.has(f"{GROUP}.crowdsec"):
        reason = "is for banLists.crowdsec, which is not set; leave it out"
    else:
        return
    report_secret(top, KEY, reason)
