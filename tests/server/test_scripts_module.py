"""module.sh over what the real Nix evaluates: the ways in, and what is refused. Nothing is built."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

import toolchain
from components.config.home import Immich, Lan
from components.preflight.rules import problems
from components.remote.module_files import entry_and_module, in_folder
from lab.nixos import lay
from tests.programs.harness import DOMAIN, RUNNING, SCRIPTS, Machine, Outcome, assert_sentence, result
from tests.programs.test_scripts_module import HEALTHY, NEW, link, system
from tests.unit.components.test_preflight_rules import SOUND, WANTED
from toolchain.paths import PROJECT

pytestmark = pytest.mark.server

HOUSES = PROJECT / "lab/houses"
DESCRIBE = (SCRIPTS / "module.sh").read_text().split("DESCRIBE='", 1)[1].split("'\n\n", 1)[0]


@pytest.fixture(scope="module")
def evaluator(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What Nix must know: a store of its own, and the lab's stand-in as <nixpkgs>."""
    folder = tmp_path_factory.mktemp("nix")
    lay.lay(folder / "nixpkgs", toolchain.program("caddy").parent)
    places = ("STORE_DIR", "STATE_DIR", "LOCALSTATE_DIR", "LOG_DIR", "CONF_DIR")
    return {
        **{f"NIX_{place}": str(folder / place.lower()) for place in places},
        "NIX_PATH": f"nixpkgs={folder}/nixpkgs",
        "NIX_REMOTE": "",
        "XDG_CACHE_HOME": str(folder / "cache"),
    }


@dataclass(frozen=True)
class Home:
    """A server whose running system is what its configuration says."""

    machine: Machine
    evaluator: dict[str, str]

    @property
    def configuration(self) -> Path:
        """The file that a link may lead to."""
        return (self.machine.config / "configuration.nix").resolve()

    def managed(self, upgrade: str = "no") -> Outcome:
        return self.machine.run("module", "managed", str(self.machine.config), "8443", "-", "2283", upgrade)

    def evaluate(self, configuration: Path) -> dict[str, str]:
        """The words of a configuration."""
        text = f"({DESCRIBE}) (import <nixpkgs/nixos> {{ configuration = {configuration}; }})"
        words = subprocess.run(
            ["nix-instantiate", "--eval", "--strict", "--read-write-mode", "-E", text],
            env={**os.environ, **self.evaluator},
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip('"\n')
        return dict(word.split("=", 1) for word in words.split(" "))

    def run_unchanged(self) -> None:
        """Make the running system what the configuration evaluates to now."""
        link(self.machine.root / "run/current-system", self.evaluate(self.configuration)["toplevel"])

    def install(self, managed: bool = True, lan: Lan = Lan.CLOSE) -> None:
        """Lay the files of the module beside the configuration, as `pulumi up` does."""
        files = in_folder(entry_and_module(Immich("127.0.0.1", 2283, managed), lan))
        payload = {file.path: file.text for file in files}
        assert self.machine.run("files", "install", str(self.machine.config), payload=payload).status == 0


BUILDS_WHAT_WAS_EVALUATED = """
    toplevel=$(sed -n s/^toplevel=//p "$IMMICH_EXPOSURE_ROOT"/run/immich-exposure.*/changed)
    mkdir -p "$toplevel"
    cp -r "$(cat "$FAKES/built")"/. "$toplevel"
    # What is activated is what was built, and not what it was copied from.
    sed -i "s|ln -sfn [^ ]* |ln -sfn $toplevel |" "$toplevel/bin/switch-to-configuration"
    ln -s "$toplevel" result
"""


def builds_again(home: Home) -> str:
    """A build of the system of before, wherever that lies."""
    return f"""
    rm -rf made result
    cp -r {home.machine.root}{NEW} made
    sed -i "s|ln -sfn [^ ]* |ln -sfn $PWD/made |" made/bin/switch-to-configuration
    ln -s made result
"""


def settle(folder: Path, evaluator: dict[str, str], files: dict[str, str] | Path) -> Home:
    """Let somebody live there: with these files in /etc/nixos, or with a house of the lab."""
    machine = Machine(folder, "dash")
    exports = " ".join(f"{name}={value}" for name, value in evaluator.items())
    machine.fake("nix-instantiate", f'exec env {exports} {shutil.which("nix-instantiate")} "$@"')
    machine.write(machine.root / "etc/NIXOS", "")
    if isinstance(files, Path):
        shutil.copytree(files, machine.root, dirs_exist_ok=True)
        for found in machine.root.rglob("configuration.nix"):
            if not (machine.config / "configuration.nix").exists():
                link(machine.config / "configuration.nix", found)
    else:
        for name, text in files.items():
            machine.write(machine.config / name, text)
    system(machine, NEW)
    profiles = machine.root / "nix/var/nix/profiles"
    profiles.mkdir(parents=True)
    link(profiles / "system-41-link", machine.root / "old")
    link(profiles / "system", "system-41-link")
    machine.prepare()
    machine.write(machine.state / "domain.env", f"IMMICH_EXPOSURE_DOMAIN={DOMAIN}\n")
    machine.write(machine.state / "tls/server.crt", "certificate\n")
    machine.remember(active=RUNNING, answers=HEALTHY, built=str(machine.root / NEW[1:]))
    machine.fake("nixos-rebuild", BUILDS_WHAT_WAS_EVALUATED)
    home = Home(machine, evaluator)
    home.run_unchanged()
    return home


TAIL = """networking.hostName = "immich"; services.openssh.enable = true;
  services.tailscale.enable = true; system.stateVersion = "26.05"; }
"""
CHAPTER = {
    "configuration.nix": "{ ... }: { imports = [ ./lan-immich.nix ]; " + TAIL,
    "lan-immich.nix": """{ ... }: {
      services.immich = { enable = true; host = "0.0.0.0"; port = 2283; openFirewall = true; };
    }\n""",
}


def test_the_chapters_layout_is_swapped_and_keeps_all_it_said(
    tmp_path: Path, evaluator: dict[str, str]
) -> None:
    """Its media location and secrets stand in the very file whose import makes way."""
    lan = CHAPTER["lan-immich.nix"].replace(
        "port = 2283;", 'port = 2283; mediaLocation = "/mnt/drive/media"; secretsFile = "/mnt/drive/secret";'
    )
    home = settle(tmp_path, evaluator, {**CHAPTER, "lan-immich.nix": lan})
    home.install()
    before = home.evaluate(home.configuration)
    outcome = home.managed()
    assert result(outcome) == {"generation": 42}, outcome.stderr
    assert "imports = [ ./immich-exposure ];" in home.configuration.read_text()
    after = home.evaluate(home.configuration)
    assert (after["exposure"], after["lan"]) == ("on", "close")
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"toplevel", "exposure", "lan", "setting:host"}


def test_a_swap_that_loses_something_gives_way_to_an_added_import(
    tmp_path: Path, evaluator: dict[str, str]
) -> None:
    """An own default.nix that knows nothing of what else ./lan-immich.nix says."""
    lan = CHAPTER["lan-immich.nix"].replace("};\n", '};\n environment.etc.mine.text = "mine";\n', 1)
    home = settle(tmp_path, evaluator, {**CHAPTER, "lan-immich.nix": lan})
    home.install()
    ours = home.configuration.parent / "immich-exposure/default.nix"
    immich = lan.replace("{ ... }: {", "").replace("environment", "# environment").rsplit("}", 1)[0]
    ours.write_text(f"{{ imports = [ ./nix ]; services.immich-exposure.enable = true;\n{immich} }}\n")
    outcome = home.managed()
    assert result(outcome) == {"generation": 42}, outcome.stderr
    assert "the system would lose some other setting" in outcome.stderr
    assert "imports = [ ./immich-exposure ./lan-immich.nix ];" in home.configuration.read_text()


def test_with_lan_keep_nothing_of_immich_changes(tmp_path: Path, evaluator: dict[str, str]) -> None:
    home = settle(tmp_path, evaluator, CHAPTER)
    home.install(lan=Lan.KEEP)
    before = home.evaluate(home.configuration)
    assert result(home.managed()) == {"generation": 42}
    after = home.evaluate(home.configuration)
    assert {name for name in before if before[name] != after[name]} == {"toplevel", "exposure", "lan"}


@pytest.mark.parametrize("house", ["book", "inline", "options", "caddy-sites", "nginx-v6", "impermanence"])
def test_real_homes_take_the_module(tmp_path: Path, evaluator: dict[str, str], house: str) -> None:
    home = settle(tmp_path, evaluator, HOUSES / house / "root")
    home.install()
    files = home.machine.files(home.configuration.parent)
    outcome = home.managed()
    assert result(outcome) == {"generation": 42}, outcome.stderr
    now = home.machine.files(home.configuration.parent)
    assert {name for name in now if now[name] != files.get(name)} <= {
        "configuration.nix",
        "immich-exposure/home.nix",
    }
    assert "./immich-exposure" in now["configuration.nix"]


def test_an_immich_in_a_container_is_not_switched_on(tmp_path: Path, evaluator: dict[str, str]) -> None:
    home = settle(tmp_path, evaluator, HOUSES / "podman/root")
    home.install()
    assert_sentence(home.managed(), "Failed assertions: - There is no services.immich in this configuration")
    home.install(managed=False)
    assert result(home.managed()) == {"generation": 42}


@pytest.mark.parametrize(
    ("ours", "reason"),
    [
        (
            'enable = true; }; services.immich = { mediaLocation = "/elsewhere";',
            "it would change Immich's environment mediaLocation",
        ),
        ("enable = false;", "services.immich-exposure would not be enabled"),
        (
            "enable = true; nonsense = 1;",
            "it does not evaluate (The option `services.immich-exposure.nonsense' does not",
        ),
    ],
)
def test_what_changes_immich_is_refused_with_its_name(
    tmp_path: Path, evaluator: dict[str, str], ours: str, reason: str
) -> None:
    home = settle(tmp_path, evaluator, HOUSES / "inline/root")
    home.install()
    place = home.configuration.parent / "immich-exposure/default.nix"
    place.write_text(f"{{ imports = [ ./nix ]; services.immich-exposure = {{ {ours} }}; }}\n")
    before = home.configuration.read_text()
    assert_sentence(home.managed(), "With ./immich-exposure in its imports", reason)
    assert home.configuration.read_text() == before
    assert home.machine.commands("nixos-rebuild") == []


def test_a_text_that_was_put_back_by_its_owner_takes_the_module_again(
    tmp_path: Path, evaluator: dict[str, str]
) -> None:
    """A `git checkout` while the system runs on: that is no pending change, and another edit is one."""
    home = settle(tmp_path, evaluator, CHAPTER)
    home.install()
    before = home.configuration.read_text()
    result(home.managed())
    home.run_unchanged()
    home.machine.remember(module='{"digest":"abc","immich":"127.0.0.1:2283"}')
    ours = home.configuration.read_text()
    home.configuration.write_text(before)
    home.install(lan=Lan.KEEP)
    assert result(home.managed()) == {"generation": 42}
    assert home.configuration.read_text() == ours
    home.run_unchanged()
    home.configuration.write_text(before.replace('"immich"', '"photos"'))
    assert_sentence(home.managed(), "would also bring a configuration other than the running one")


def test_a_pending_change_does_not_ride_along(tmp_path: Path, evaluator: dict[str, str]) -> None:
    home = settle(tmp_path, evaluator, CHAPTER)
    home.install()
    text = home.configuration.read_text()
    home.configuration.write_text(text.replace('"immich"', '"photos"'))
    assert_sentence(home.managed(), "would also bring a configuration other than the running one")
    assert home.machine.commands("nixos-rebuild") == []
    assert result(home.managed("yes")) == {"generation": 42}


def test_an_update_of_the_module_is_no_pending_change(tmp_path: Path, evaluator: dict[str, str]) -> None:
    """It is held against the files that the running system was built from, and a pending one still shows."""
    home = settle(tmp_path, evaluator, CHAPTER)
    home.install()
    result(home.managed())
    home.run_unchanged()
    home.machine.remember(module='{"digest":"abc","immich":"127.0.0.1:2283"}')
    home.install(lan=Lan.KEEP)
    assert (home.machine.state / "module.before").exists()
    text = home.configuration.read_text()
    home.configuration.write_text(text.replace('"immich"', '"photos"'))
    assert_sentence(home.managed(), "would also bring a configuration other than the running one")
    home.configuration.write_text(text)
    assert result(home.managed()) == {"generation": 42}
    assert not (home.machine.state / "module.before").exists()


FLAKE = """{
  inputs.nixpkgs.url = "path:NIXPKGS";
  outputs = { nixpkgs, ... }: {
    nixosConfigurations.pi = nixpkgs.lib.nixosSystem {
      system = "x86_64-linux";
      modules = [ ./pi.nix MODULE ];
    };
  };
}
"""
PI = CHAPTER["configuration.nix"].replace(
    " imports = [ ./lan-immich.nix ];", " services.immich.enable = true;"
)


def settle_flake(folder: Path, evaluator: dict[str, str], module: str) -> Home:
    """Let somebody live in a flake; the running system is the one without the module."""
    home = settle(folder, evaluator, {"configuration.nix": PI})
    exports = " ".join(f"{name}={value}" for name, value in evaluator.items())
    home.machine.fake("nix", f'exec env {exports} {shutil.which("nix")} "$@"')
    infra = home.machine.root / "home/admin/infra"
    nixpkgs = evaluator["NIX_PATH"].removeprefix("nixpkgs=")
    text = FLAKE.replace("NIXPKGS", nixpkgs)
    home.machine.write(infra / "pi.nix", PI)
    home.machine.write(infra / "flake.nix", text.replace("MODULE", ""))
    toplevel = 'system: builtins.unsafeDiscardStringContext "${system.config.system.build.toplevel}"'
    command = [
        "nix",
        "--extra-experimental-features",
        "nix-command flakes",
        "eval",
        "--no-write-lock-file",
        "--raw",
    ]
    running = subprocess.run(
        [*command, "--apply", toplevel, f"path:{infra}#nixosConfigurations.pi"],
        env={**os.environ, **evaluator},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    link(home.machine.root / "run/current-system", running)
    home.machine.write(infra / "flake.nix", text.replace("MODULE", module))
    for file in in_folder(entry_and_module(Immich("127.0.0.1", 2283, True), Lan.CLOSE)):
        home.machine.write(infra / file.path, file.text)
    return home


def evaluated(home: Home, *where: str) -> dict[str, object]:
    """What the preflight has Nix say, which is told before anything is made."""
    outcome = home.machine.run("preflight", "facts", *where, "-", "2283", "8443", "443")
    told = result(outcome)["evaluated"]
    assert isinstance(told, dict), outcome.stderr
    return {name: told[name] for name in ("error", "hosts", "exposure", "immichPort") if name in told}


def test_the_preflight_knows_whether_the_module_is_in_a_configuration_already(
    tmp_path: Path, evaluator: dict[str, str]
) -> None:
    home = settle(tmp_path, evaluator, CHAPTER)
    place = ("managed", str(home.machine.config), "-", "-")
    assert evaluated(home, *place) == {"error": None, "exposure": "absent", "immichPort": 2283}
    for file in in_folder(entry_and_module(Immich("127.0.0.1", 2283, True), Lan.CLOSE)):
        home.machine.write(home.machine.config / f"theirs/{file.path}", file.text)
    text = home.configuration.read_text()
    home.configuration.write_text(text.replace("imports = [", "imports = [ ./theirs/immich-exposure/nix"))
    assert evaluated(home, *place) == {"error": None, "exposure": "off", "immichPort": 2283}
    home.configuration.write_text(text.replace("imports = [", "imports = [ ./theirs/immich-exposure"))
    assert evaluated(home, *place) == {"error": None, "exposure": "on", "immichPort": 2283}
    home.configuration.write_text(text.replace("networking.", "nyetworking."))
    assert "nyetworking" in str(evaluated(home, *place)["error"])


def test_the_preflight_asks_the_environment_for_the_port(tmp_path: Path, evaluator: dict[str, str]) -> None:
    home = settle(tmp_path, evaluator, CHAPTER)
    text = home.configuration.read_text()
    line = 'systemd.services.immich-server.environment.IMMICH_PORT = (import <nixpkgs/lib>).mkForce "3001";'
    home.configuration.write_text(text.replace("networking.", f"{line}\n  networking.", 1))
    assert evaluated(home, "managed", str(home.machine.config), "-", "-")["immichPort"] == 3001


def refusals(home: Home, **wanted: Any) -> list[str]:
    """What the preflight has against this home, where all else is as it should be."""
    place = ("managed", str(home.machine.config), "-", "-")
    facts = result(home.machine.run("preflight", "facts", *place, "-", "2283", "8443", "443"))
    seen = {name: facts[name] for name in ("configuration", "evaluated", "running", "theirs", "theirNames")}
    return problems({**SOUND, **seen}, replace(WANTED, config_dir=str(home.machine.config), **wanted))


def test_the_preflight_tells_what_does_not_run_yet(tmp_path: Path, evaluator: dict[str, str]) -> None:
    """A configuration.nix of old beside a system that comes from a flake elsewhere, say."""
    home = settle(tmp_path, evaluator, CHAPTER)
    assert refusals(home) == []
    home.configuration.write_text(CHAPTER["configuration.nix"].replace('"immich"', '"photos"'))
    [refusal] = refusals(home)
    assert "would also bring a configuration other than the running one" in refusal
    assert refusals(home, allow_upgrade=True) == []


def test_the_preflight_knows_the_hosts_of_a_flake_and_what_they_have(
    tmp_path: Path, evaluator: dict[str, str]
) -> None:
    home = settle_flake(tmp_path, evaluator, "./immich-exposure")
    before = home.machine.files(home.machine.root)
    infra = home.machine.root / "home/admin/infra"
    place = ("flake", str(home.machine.config), str(infra))
    known = {"error": None, "hosts": ["pi"]}
    assert evaluated(home, *place, "pi") == {**known, "exposure": "on", "immichPort": 2283}
    assert evaluated(home, *place, "nas") == {**known, "exposure": None, "immichPort": None}
    assert home.machine.files(home.machine.root) == before
    text = (infra / "flake.nix").read_text()
    (infra / "flake.nix").write_text(text.replace("./immich-exposure", ""))
    assert evaluated(home, *place, "pi")["exposure"] == "absent"
    (infra / "flake.nix").write_text(text.replace("./pi.nix", "./none.nix"))
    assert "none.nix" in str(evaluated(home, *place, "pi")["error"])


BUILT = "nixos-rebuild build --flake path:/home/admin/infra#pi --no-write-lock-file"


def flake(home: Home, host: str = "pi") -> Outcome:
    infra = str(home.machine.root / "home/admin/infra")
    return home.machine.run("module", "flake", infra, host, "8443", "-", "2283", "no")


def test_a_flake_with_the_module_is_built_and_left_as_it_is(
    tmp_path: Path, evaluator: dict[str, str]
) -> None:
    home = settle_flake(tmp_path, evaluator, "./immich-exposure")
    before = home.machine.files(home.machine.root / "home")
    outcome = flake(home)
    assert result(outcome) == {"generation": 42}, outcome.stderr
    assert home.machine.files(home.machine.root / "home") == before
    assert home.machine.commands("nixos-rebuild") == [BUILT]


@pytest.mark.parametrize("way", ["the file", "the folder"])
def test_a_flake_that_a_link_leads_to_is_built_where_it_lies(
    tmp_path: Path, evaluator: dict[str, str], way: str
) -> None:
    """/etc/nixos/flake.nix is a link into a checkout, or /etc/nixos itself is."""
    home = settle_flake(tmp_path, evaluator, "./immich-exposure")
    infra, place = home.machine.root / "home/admin/infra", home.machine.root / "etc/nix-files"
    if way == "the file":
        place.mkdir()
        (place / "flake.nix").symlink_to(infra / "flake.nix")
    else:
        place.symlink_to(infra)
    seen = evaluated(home, "flake", str(home.machine.config), str(place), "pi")
    assert seen == {"error": None, "hosts": ["pi"], "exposure": "on", "immichPort": 2283}
    outcome = home.machine.run("module", "flake", str(place), "pi", "8443", "-", "2283", "no")
    assert result(outcome) == {"generation": 42}, outcome.stderr
    assert home.machine.commands("nixos-rebuild") == [BUILT]


def test_a_flake_that_lacks_something_is_refused(tmp_path: Path, evaluator: dict[str, str]) -> None:
    home = settle_flake(tmp_path, evaluator, "")
    assert_sentence(
        flake(home), "does not have services.immich-exposure.enable = true; import the module there"
    )
    assert_sentence(flake(home, "nas"), "(is nas one of its nixosConfigurations?)")
    place = home.machine.root / "home/admin/infra/pi.nix"
    home.machine.write(
        place.parent / "flake.nix",
        (place.parent / "flake.nix").read_text().replace("pi.nix", "pi.nix ./immich-exposure"),
    )
    place.write_text(PI.replace('"immich"', '"photos"'))
    assert_sentence(flake(home), "would also bring a configuration other than the running one")
    assert home.machine.commands("nixos-rebuild") == []


FOLDERS_BESIDE = (
    'builtins.filter (name: builtins.pathExists (./. + "/${name}/default.nix")) (builtins.attrNames all)'
)
FILES_BELOW = """let below = folder: builtins.concatMap (name: let path = folder + "/${name}"; in
    if (builtins.readDir folder).${name} == "directory" then below path
    else if builtins.match ".*[.]nix" name != null then [ path ] else [ ]) (builtins.attrNames
    (builtins.readDir folder)); in builtins.filter (path: path != ./configuration.nix) (below ./.)"""


@pytest.mark.parametrize("exposed", [False, True])
@pytest.mark.parametrize(
    ("taken_in", "reason"),
    [
        (
            f'map (name: ./. + "/${{name}}") (let all = builtins.readDir ./.; in {FOLDERS_BESIDE})',
            "without the plain import ./immich-exposure",
        ),
        (FILES_BELOW, "and does not evaluate with them ("),
    ],
)
def test_a_home_that_takes_in_all_beside_it_is_left_without_our_files(
    tmp_path: Path, evaluator: dict[str, str], taken_in: str, reason: str, exposed: bool
) -> None:
    """Otherwise its owner's next rebuild would fail, or take Immich off the home network unchecked."""
    text = CHAPTER["configuration.nix"].replace("[ ./lan-immich.nix ]", f"[ ] ++ ({taken_in})")
    files = {"configuration.nix": text, "photos/default.nix": CHAPTER["lan-immich.nix"]}
    home = settle(tmp_path, evaluator, files)
    before = home.machine.files(home.machine.config)
    assert refusals(home) == []
    home.install()
    installed = home.machine.files(home.machine.config)
    if exposed:  # its owner has rebuilt with them
        home.machine.write(home.machine.root / "exposed/sw/bin/immich-exposure", "")
        link(home.machine.root / "run/current-system", home.machine.root / "exposed")
    outcome = home.managed()
    remedy = 'or run "pulumi destroy"' if exposed else "they were removed again, so exclude a folder of that"
    assert_sentence(outcome, "automatically imports the files in /etc/nixos/immich-exposure", reason, remedy)
    assert home.machine.files(home.machine.config) == (installed if exposed else before)
    assert home.machine.commands("nixos-rebuild") == []


# What the owner has in files of the chapter's names, and in other files that name ours


EXPOSE = """{ lib, config, ... }: {
  services.caddy = { enable = true; virtualHosts.":8443".extraConfig = "respond 403"; };
  services.fail2ban.enable = true;
  services.immich.host = lib.mkForce "127.0.0.1";
  assertions = [ { assertion = true; message = "mine"; } ];
  MORE
}
"""


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ("", None),
        ("systemd.services.caddy.serviceConfig.Nice = 5;", None),
        ('environment.etc."fail2ban/filter.d/mine.conf".text = "x";', None),
        ('time.timeZone = lib.mkForce "UTC";', "time.timeZone"),
        ("networking.hostName = lib.mkIf true (lib.mkForce \"immich\");", "networking.hostName"),
        ("users.users.admin.isNormalUser = true;", "users.users.admin"),
        ('systemd.services.mine.script = "true";', "systemd.services.mine"),
        ("imports = [ ./more.nix ];", "imports"),
        (
            'services.caddy.virtualHosts."blog.example".extraConfig = "respond hello";',
            "services.caddy.virtualHosts.:8443, services.caddy.virtualHosts.blog.example",
        ),
    ],
)  # fmt: skip
def test_what_else_stands_in_the_file_that_makes_way_is_not_lost(
    tmp_path: Path, evaluator: dict[str, str], more: str, named: str | None
) -> None:
    files = {
        **CHAPTER,
        "configuration.nix": CHAPTER["configuration.nix"]
        .replace("./lan", "./expose")
        .replace("services.openssh", "services.immich.enable = true; services.openssh", 1),
        "expose-immich.nix": EXPOSE.replace("MORE", ""),
        "more.nix": "{ }",
    }
    home = settle(tmp_path, evaluator, files)
    (home.machine.config / "expose-immich.nix").write_text(EXPOSE.replace("MORE", more))
    early = refusals(home, allow_upgrade=True)
    home.install()
    before = home.configuration.read_text()
    outcome = home.managed("yes")
    # Before anything is made on the server, and again by what is about to write.
    assert [f"which the module replaces, also sets {named};" in problem for problem in early] == [True] * (
        named is not None
    )
    if named is None:
        assert result(outcome) == {"generation": 42}, outcome.stderr
        assert "imports = [ ./immich-exposure ];" in home.configuration.read_text()
    else:
        assert_sentence(outcome, f"which this replaces, also sets {named}; move that to a file of its own")
        assert home.configuration.read_text() == before


def test_the_folder_stays_while_another_file_imports_it_switched_off(
    tmp_path: Path, evaluator: dict[str, str]
) -> None:
    home = settle(tmp_path, evaluator, {**CHAPTER, "mine.nix": "{ }"})
    text = home.configuration.read_text().replace("./lan-immich.nix", "./lan-immich.nix ./mine.nix")
    home.configuration.write_text(text)
    home.run_unchanged()
    home.install()
    assert result(home.managed()) == {"generation": 42}
    home.machine.remember(module='{"digest":"abc","immich":"127.0.0.1:2283"}')
    (home.machine.config / "mine.nix").write_text(
        "{ lib, ... }: { imports = [ ./immich-exposure/nix ];"
        " services.immich-exposure.enable = lib.mkForce false; }"
    )
    home.machine.fake("nixos-rebuild", builds_again(home))
    before = home.machine.files(home.machine.config)
    refused = home.machine.run("module", "restore", str(home.machine.config))
    assert_sentence(refused, "still imports the module, switched off", "(it is named in /etc/nixos/mine.nix)")
    assert home.machine.files(home.machine.config) == before
    (home.machine.config / "mine.nix").write_text("{ }")
    assert home.machine.run("module", "restore", str(home.machine.config)).status == 0
    assert home.configuration.read_text() == text


# Homes that nobody has run yet: in and out again to the byte, or one sentence and nothing changed

LIST = "imports = [ ./lan-immich.nix ];"
REST = 'networking.hostName = "immich"; services.tailscale.enable = true; system.stateVersion = "26.05";'
ODD: dict[str, tuple[str, str | None]] = {
    "one line without an end": (f"{{ {LIST} {REST} }}", None),
    "carriage returns and tabs": (f"{{\r\n\t{LIST}\r\n\t{REST}\r\n}}\r\n", None),
    "comments around": (f"{{ /* imports = [ ./old ]; */\n{LIST} /* ./lan-immich.nix */ {REST} }}\n", None),
    "inherited from a let": (f"{{ ... }}: let {LIST} in {{ inherit imports; {REST} }}\n", None),
    "mapped": (f"{{ imports = map (one: one) [ ./lan-immich.nix ]; {REST} }}\n", None),
    "modules of others": (
        "{ imports = [ (./agenix + \"/module.nix\") (import ./hm.nix { user = \"me\"; }) ./lan-immich.nix ];"
        f" {REST} }}\n",
        None,
    ),
    "added to a list that is made": (
        f"{{ imports = map (x: x) [ ./home.nix ] ++ [ ./agenix/module.nix ]; {REST} }}\n",
        None,
    ),
    "a let before the list": (
        f"{{ imports = let from = import ./npins; in [ ./home.nix from.agenix ]; {REST} }}\n",
        None,
    ),
    "a list that does not count": (
        f"{{ ... }}: {{ imports = [ ./home.nix ]; }} // {{ imports = [ ./lan-immich.nix ]; {REST} }}\n",
        None,
    ),
    "a list that does not count, without the chapter's": (
        f"{{ ... }}: {{ imports = [ ./hm.nix ]; }} // {{ imports = [ ./home.nix ]; {REST} }}\n",
        "the list of imports that it stands in is not the one that counts",
    ),
    "a host that nothing overrides": (
        f"{{ lib, ... }}: {{ {LIST} services.immich.host = lib.mkOverride 10 \"::\"; {REST} }}\n",
        "- In `/etc/nixos/configuration.nix':",
    ),
    "mapped, Immich elsewhere": (f"{{ imports = map (x: x) [ ./home.nix ]; {REST} }}\n", "has no plain list"),
    "made by another file": ("args: import ./real.nix args\n", "has no plain list"),
    "a byte order mark": (f"\ufeff{{ {LIST} {REST} }}\n", "does not evaluate even before any change"),
    "imports twice": (f"{{ {LIST} {LIST} {REST} }}\n", "does not evaluate even before any change"),
}  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_an_odd_home_comes_back_to_the_byte_or_is_told(
    tmp_path: Path, evaluator: dict[str, str], name: str
) -> None:
    text, sentence = ODD[name]
    others = {
        "lan-immich.nix": CHAPTER["lan-immich.nix"],
        "home.nix": CHAPTER["lan-immich.nix"],
        "agenix/module.nix": '{ environment.etc.secret.text = "x"; }',
        "npins/default.nix": "{ agenix = ../agenix/module.nix; }",
        "hm.nix": "{ user }: { config, ... }: { environment.etc.hm.text = user; }",
        "real.nix": f"{{ ... }}: {{ {LIST} {REST} }}",
    }
    home = settle(tmp_path, evaluator, {**CHAPTER, **others})
    home.configuration.write_bytes(text.encode())
    os.utime(home.configuration, (1_500_000_000, 1_500_000_000))
    if sentence is None or "evaluate" not in sentence:
        home.run_unchanged()
    before = home.machine.files(home.machine.config)
    home.install()
    outcome = home.managed()
    if sentence is None:
        assert result(outcome) == {"generation": 42}, outcome.stderr
        assert home.configuration.read_bytes() != text.encode()
        home.machine.remember(module='{"digest":"abc","immich":"127.0.0.1:2283"}')
        home.machine.fake("nixos-rebuild", builds_again(home))
        restored = home.machine.run("module", "restore", str(home.machine.config))
        assert restored.status == 0, restored.stderr
    else:
        assert_sentence(outcome, sentence)
    assert home.configuration.read_bytes() == text.encode()
    assert home.configuration.stat().st_mtime == 1_500_000_000
    assert home.machine.run("files", "remove", str(home.machine.config)).status == 0
    assert home.machine.files(home.machine.config) == before
