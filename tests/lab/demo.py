"""The main job, printed line by line: expose, visit, revoke, ban, take back, expose again.

Run by ``make demo``, in the house that ``HOUSE`` in the environment names. Every check prints what was asked
and what was seen. With ``KEEP=1`` in the environment, the lab and the exposure stay up.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import ssl
import sys
import time
from collections.abc import Callable

import toolchain
from lab import Lab, LabError
from lab.house import DEFAULT_HOUSE, house
from pki import Keystore, ProbeCredential
from tests.lab.chapter import PHONES, phone_of_before, taken_over
from tests.lab.operator import PASSPHRASE, Operator, PulumiFailedError
from tests.lab.outside import FORBIDDEN, REFUSED, seen
from tests.lab.strangers import PASSPHRASE as FOREIGN_PASSPHRASE
from tests.lab.strangers import foreign_credential, unenrolled_credential
from tests.lab.whole_server import Look, look
from toolchain.paths import PROJECT

FOLDER = PROJECT / ".lab-demo"
SCANNER = "203.0.113.66"
NEIGHBOUR = "203.0.113.67"
FOREIGN_ENTRY = '{"TCP":{"9443":{"TCPForward":"localhost:22"}}}'
SHARED = "/api/shared-links/me"
BAN_WAIT_SECONDS = 15
# Its funnel, and a file that sudo of the lab's Debian makes.
GONE_WITH_THE_CHAPTER = ("what Tailscale serves", ".sudo_as_admin_successful")


class Report:
    """Counts checks and prints a line for each."""

    def __init__(self) -> None:
        self.passed = 0
        self.failed: list[str] = []

    def check(self, asked: str, wanted: str, saw: str) -> None:
        """Print one check; it passes when what was seen is what was wanted."""
        if wanted == saw:
            self.passed += 1
            print(f"  ok    {asked:<72} {saw}", flush=True)
            return
        self.failed.append(f"{asked}: wanted {wanted}, saw {saw}")
        print(f"  FAIL  {asked:<72} {saw} (wanted {wanted})", flush=True)

    def close(self) -> int:
        """Print the verdict and return the exit status."""
        for line in self.failed:
            print(f"failed: {line}")
        print(f"demo: {self.passed} checks passed, {len(self.failed)} failed")
        return 1 if self.failed else 0


def chapter(title: str) -> None:
    """Print a heading with the time."""
    print(f"\n{time.strftime('%H:%M:%S')}  {title}", flush=True)


def timed(what: str, step: Callable[[], object]) -> None:
    """Run a long step and say how long it took."""
    print(f"        {what} ...", flush=True)
    started = time.monotonic()
    step()
    print(f"        {what}: done in {time.monotonic() - started:.1f} s", flush=True)


class Demo:
    """The walk. Its methods stand in the order in which they run."""

    def __init__(self, lab: Lab, operator: Operator, report: Report) -> None:
        self.lab = lab
        self.operator = operator
        self.report = report
        self.look_before: Look | None = None
        self.theirs: dict[str, str] = {}
        self.phone_before = ""

    def run(self) -> None:
        """Walk through everything once."""
        self.before()
        self.expose()
        self.a_stranger()
        self.a_visitor_of_a_link()
        self.the_owners_devices()
        self.run_again()
        self.revoke_the_laptop()
        self.ban_a_scanner()
        if keep():
            return
        self.take_it_back()
        self.expose_again()
        self.take_it_back_for_good()

    def before(self) -> None:
        by_hand = self.lab.house.by_hand
        public = "exposed by hand" if by_hand else "nothing public"
        chapter(f"before: Immich on the LAN, somebody's own serve entry on the node, {public}")
        self.server("tailscale serve --bg --tcp 9443 tcp://localhost:22")
        self.theirs = {thing.what: self.server(thing.command) for thing in self.lab.house.theirs}
        self.look_before = look(self.lab)
        self.check("ingress: GET /", FORBIDDEN if by_hand else REFUSED, seen(self.lab, "/"))
        self.check("home: Immich's ping", "pong", self.immich_at_home())
        self.phones_of_before()

    def expose(self) -> None:
        chapter("pulumi up: the whole chapter")
        timed("pulumi up", self.operator.up)
        outputs = self.operator.outputs()
        print(f"        {outputs['url']}")
        for topic, lines in outputs["public"].items():
            print(f"        {topic}: {'; '.join(f'{name}: {line}' for name, line in lines.items())}")
        for question, meaning in outputs["checked"].items():
            print(f"        {question}: {meaning}")

    def a_stranger(self) -> None:
        chapter("a stranger, without a certificate")
        for path in ("/", "/api/users/me", "/api/albums", "/auth/login", "/wp-login.php"):
            self.check(f"stranger: GET {path}", FORBIDDEN, seen(self.lab, path))
        self.check("stranger: GET /api/server/config", "200", seen(self.lab, "/api/server/config"))
        offered = "alt-svc" in self.lab.visit("/api/server/config").headers
        self.check("stranger: is HTTP/3 offered", "no", "yes" if offered else "no")
        foreign = foreign_credential(FOLDER / "foreign")
        self.check("certificate of another authority: GET /", FORBIDDEN, self.with_foreign(foreign))
        unenrolled = unenrolled_credential(self.operator.keystore, PASSPHRASE, self.operator.stack)
        self.check("certificate of ours, not enrolled: /api/users/me", FORBIDDEN, self.as_device(unenrolled))
        self.check("on the server, without PROXY header", REFUSED, self.without_proxy_header())

    def a_visitor_of_a_link(self) -> None:
        chapter("a visitor who was sent a link")
        for asked, wanted in (
            ("/share/labsharekey", "200"),
            ("/s/holiday", "200"),
            (f"{SHARED}?key=labsharekey", "200"),
            (f"{SHARED}?key=wrong", "401"),
            (f"{SHARED}?key=", FORBIDDEN),
            (SHARED, FORBIDDEN),
        ):
            self.check(f"visitor: GET {asked}", wanted, seen(self.lab, asked))
        v6 = seen(self.lab, f"{SHARED}?key=labsharekey", source="2001:db8:7::7")
        self.check("visitor over IPv6: the same link", "200", v6)

    def the_owners_devices(self) -> None:
        chapter("the owner's devices, with their certificates")
        for name in ("phone", "laptop"):
            self.check(
                f"{name}: GET /api/server/ping", "200", self.as_device(self.device(name), "/api/server/ping")
            )
        self.check("phone: GET / (all of Immich)", "200", self.as_device(self.device("phone"), "/"))
        self.phone_before = self.fingerprint("phone")
        self.phones_of_before()
        self.what_is_theirs()

    def run_again(self) -> None:
        chapter("pulumi up again")
        timed("pulumi up", self.operator.up)
        self.check("second up: kinds of change", "same", " ".join(sorted(self.operator.changes())))

    def revoke_the_laptop(self) -> None:
        chapter("the laptop is lost: it leaves the config")
        laptop = self.device("laptop")
        edge = self.edge_since()
        self.operator.devices("phone")
        timed("pulumi up", self.operator.up)
        self.check("laptop: GET /api/users/me", FORBIDDEN, self.as_device(self.moved(laptop)))
        self.check(
            "phone: GET /api/server/ping", "200", self.as_device(self.device("phone"), "/api/server/ping")
        )
        self.check("the edge was neither restarted nor reloaded", edge, self.edge_since())

    def ban_a_scanner(self) -> None:
        chapter("a scanner")
        for number in range(12):
            seen(self.lab, f"/backup-{number}.zip", source=SCANNER)
        self.check("scanner after 12 tries: GET /share/labsharekey", REFUSED, self.wait_for_ban(SCANNER))
        self.check(
            "its neighbour: GET /share/labsharekey",
            "200",
            seen(self.lab, "/share/labsharekey", source=NEIGHBOUR),
        )
        phone = seen(
            self.lab,
            "/api/server/ping",
            credential=self.device("phone"),
            passphrase=PASSPHRASE,
            source=SCANNER,
        )
        self.check("the phone from the banned address", "200", phone)

    def take_it_back(self) -> None:
        chapter("pulumi destroy")
        timed("pulumi destroy", self.operator.destroy)
        self.check("ingress: GET /", REFUSED, seen(self.lab, "/"))
        funnel = self.server("tailscale funnel status --json | tr -d ' \\n'")
        self.check(
            "tailscale: only the other tool's entry is left",
            '{"TCP":{"9443":{"TCPForward":"localhost:22"}}}',
            funnel,
        )
        self.check("home: Immich's ping", "pong", self.immich_at_home())
        self.check("what has changed on the server, files to ports", "nothing", self.changed() or "nothing")
        self.what_is_theirs()
        self.check(
            "keystore: the phone's certificate is still there", self.phone_before, self.fingerprint("phone")
        )

    def expose_again(self) -> None:
        chapter("pulumi up once more: the phone works without being touched")
        timed("pulumi up", self.operator.up)
        self.check(
            "phone: GET /api/server/ping", "200", self.as_device(self.device("phone"), "/api/server/ping")
        )
        self.check("phone: the same certificate", self.phone_before, self.fingerprint("phone"))
        self.check("stranger: GET /", FORBIDDEN, seen(self.lab, "/"))

    def take_it_back_for_good(self) -> None:
        chapter("pulumi destroy, for good")
        timed("pulumi destroy", self.operator.destroy)
        self.check("ingress: GET /", REFUSED, seen(self.lab, "/"))

    # -- small tools --------------------------------------------------------------------------------

    def check(self, asked: str, wanted: str, saw: str) -> None:
        self.report.check(asked, wanted, saw)

    def server(self, command: str) -> str:
        """Run a command on the server and return what it printed."""
        return self.lab.console(command).stdout.strip()

    def device(self, name: str) -> ProbeCredential:
        found = Keystore(self.operator.keystore).probe_credentials()
        return next(credential for credential in found if credential.name == name)

    def moved(self, credential: ProbeCredential) -> ProbeCredential:
        """Return the credential of a revoked device, where its files lie now."""
        folder = self.operator.keystore / "revoked"
        certificate = next(folder.glob(f"{credential.name}-*.crt"))
        return ProbeCredential(credential.name, certificate, certificate.with_suffix(".key"))

    def as_device(self, credential: ProbeCredential, path: str = "/api/users/me") -> str:
        return seen(self.lab, path, credential=credential, passphrase=PASSPHRASE)

    def with_foreign(self, credential: ProbeCredential) -> str:
        return seen(self.lab, "/", credential=credential, passphrase=FOREIGN_PASSPHRASE)

    def fingerprint(self, device: str) -> str:
        pem = self.device(device).certificate_path.read_text(encoding="ascii")
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()[:16]

    def immich_at_home(self) -> str:
        answer = self.server(f"curl -s --max-time 5 '{self.lab.house.immich_at_home}/api/server/ping'")
        return "pong" if '"pong"' in answer else answer or "no answer"

    def phones_of_before(self) -> None:
        """Where Immich was exposed by hand, the phones that were out there go on."""
        for name in PHONES if self.lab.house.by_hand else ():
            saw = seen(self.lab, "/api/server/ping", credential=phone_of_before(name))
            self.check(f"{name}'s phone, untouched: GET /api/server/ping", "200", saw)

    def changed(self) -> str:
        """Return what is not as it was; a funnel that was opened by hand stays closed for good."""
        assert self.look_before
        lines = look(self.lab).since(self.look_before).splitlines()
        if self.lab.house.by_hand:
            lines = [line for line in lines if not any(each in line for each in GONE_WITH_THE_CHAPTER)]
        return "\n".join(lines)

    def what_is_theirs(self) -> None:
        """What the owner of the house has besides Immich goes on."""
        for thing in self.lab.house.theirs:
            self.check(f"theirs: {thing.what}", self.theirs[thing.what], self.server(thing.command))

    def without_proxy_header(self) -> str:
        url = f"https://{self.operator.outputs()['url'].removeprefix('https://')}:8443/"
        done = self.lab.console(
            f"curl -sk --max-time 5 -o /dev/null -w '%{{http_code}}' --connect-to ::127.0.0.1:8443 {url}"
        )
        return REFUSED if done.returncode else done.stdout

    def edge_since(self) -> str:
        """Return process id and count of reloads; both stay when nothing touched the edge."""
        process = self.server("systemctl show immich-edge --property=MainPID --value")
        reloads = self.server("journalctl -u immich-edge -o cat --no-pager | grep -c -i reload")
        return f"pid {process}, {reloads} reloads"

    def wait_for_ban(self, address: str) -> str:
        """Return what the address sees once it is banned, or at the end of the patience."""
        deadline = time.monotonic() + BAN_WAIT_SECONDS
        saw = seen(self.lab, "/share/labsharekey", source=address)
        while saw != REFUSED and time.monotonic() < deadline:
            time.sleep(0.2)
            saw = seen(self.lab, "/share/labsharekey", source=address)
        return saw


def keep() -> bool:
    """Return whether the lab is to be left up."""
    return bool(os.environ.get("KEEP"))


def say_what_is_in_use() -> None:
    """Name the Pulumi programs, and which of them are stand-ins."""
    for program in toolchain.pulumi_programs():
        print(f"        {program.name} {program.version}: {program.kind}")


def say_how_to_reach_it(operator: Operator) -> None:
    """Print what a person can do with a lab that was left up."""
    device = operator.keystore / "devices" / "phone"
    passphrase = operator.passphrase_file()
    print(
        f"\nThe lab is up and exposed.\n"
        f"  as a visitor:    .venv/bin/python -m lab visit /share/labsharekey\n"
        f"  as the phone:    .venv/bin/python -m lab visit --cert {device}.crt --key {device}.key \\\n"
        f"                     --passphrase-file {passphrase} /\n"
        f"  on the server:   .venv/bin/python -m lab ssh -- sudo immich-exposure status\n"
        f"  device bundles:  {operator.keystore}/devices/*.p12\n"
        f"  install sheets:  {operator.keystore}/devices/*.html\n"
        f"  take it down:    .venv/bin/python -m lab down; rm -r {operator.folder}"
    )


def main() -> int:
    """Run the demo and return its exit status."""
    argparse.ArgumentParser(
        prog="python -m tests.lab.demo",
        description="Run the main job in the lab. In the environment, HOUSE names the house, and KEEP=1 "
        "leaves everything running.",
    ).parse_args()
    report = Report()
    lab = Lab(report=lambda line: print(f"        {line}", flush=True))
    home = house(os.environ.get("HOUSE") or DEFAULT_HOUSE)
    chapter("the lab: a server, its tailnet and an internet of its own on this machine")
    print(f"        the house {home.name}: {home.proves}")
    say_what_is_in_use()
    shutil.rmtree(FOLDER, ignore_errors=True)
    try:
        lab.down()
        lab.up(home)
        operator = Operator(FOLDER, lab.info(), stack="demo", more=home.stack)
        operator.init()
        if home.by_hand:
            operator.set(adopt=taken_over(*PHONES))
        Demo(lab, operator, report).run()
    except (LabError, PulumiFailedError) as error:
        report.failed.append(str(error))
    finally:
        if not keep():
            lab.down()
            shutil.rmtree(FOLDER, ignore_errors=True)
    if keep() and not report.failed:
        say_how_to_reach_it(operator)
    return report.close()


if __name__ == "__main__":
    sys.exit(main())
