"""The server's root file system: the host's own, seen through an overlay and made to look like NixOS.

The writable layer is on its own tmpfs, so that unmounting discards every change and an overlay root (a
container) does not matter. What the host has enabled, installed outside its packages or keeps private is
hidden by opaque directories and whiteouts (kernel documentation, filesystems/overlayfs.rst).
"""

import os
import shutil
import stat
import sys
import uuid
from pathlib import Path

from lab import commands, keys, mounts
from lab.errors import LabError
from lab.house import House
from lab.nixos import lay
from lab.places import MACHINE, Places
from toolchain import program

# Of the host's top level only these are visible; everything else (the project's folder too) is whited out.
KEPT_TOP = {
    "bin",
    "dev",
    "etc",
    "lib",
    "lib32",
    "lib64",
    "libx32",
    "proc",
    "run",
    "sbin",
    "sys",
    "tmp",
    "usr",
    "var",
}

# Empty in the server, whatever the host has there; value: mode.
EMPTY_FOLDERS = {
    "boot": 0o755,
    "etc/default": 0o755,
    "etc/fail2ban/jail.d": 0o755,
    "etc/nix": 0o755,
    "etc/nixos": 0o755,
    "etc/ssh": 0o755,
    "etc/sudoers.d": 0o750,
    "etc/sysusers.d": 0o755,
    "etc/systemd/system": 0o755,
    "etc/tmpfiles.d": 0o755,
    "home": 0o755,
    "media": 0o755,
    "mnt": 0o755,
    "nix": 0o755,
    "opt": 0o755,
    "root": 0o700,
    "srv": 0o755,
    "usr/local": 0o755,
    "var/cache": 0o755,
    "var/lib/fail2ban": 0o755,
    "var/lib/private": 0o700,
    "var/lib/systemd": 0o755,
    "var/lib/tailscale": 0o700,
    "var/log": 0o755,
    "var/spool": 0o755,
    "var/tmp": 0o1777,
}

# What Debian has but NixOS does not, or what the host keeps private; those that exist are whited out.
ABSENT = (
    *("apt", "caddy", "cron.d", "cron.daily", "cron.hourly", "cron.monthly", "cron.weekly", "crontab"),
    *("debian_version", "dpkg", "environment", "init.d", "issue.net", "ld.so.preload", "lsb-release", "motd"),
    *(
        "netns",
        "nginx",
        "rc0.d",
        "rc1.d",
        "rc2.d",
        "rc3.d",
        "rc4.d",
        "rc5.d",
        "rc6.d",
        "rcS.d",
        "update-motd.d",
    ),
)
ABSENT_DATA = ("apt", "containerd", "docker", "dpkg", "postgresql")

# Programs that a NixOS server does not have by default: a script that relies on one must fail here, as it
# would there.
ABSENT_PROGRAMS = (
    *(
        "apt",
        "apt-cache",
        "apt-get",
        "dpkg",
        "dpkg-query",
        "gcc",
        "git",
        "fish",
        "jq",
        "lsb_release",
        "make",
        "openssl",
    ),
    *("perl", "wget", "zsh"),
)
ABSENT_ADMIN_PROGRAMS = ("nginx",)

# Bound into the server at boot, and on every user's PATH.
LINKED_PROGRAMS = {
    "nixos-rebuild": "/opt/lab-nixos/nixos_rebuild.py",
    "tailscale": "/opt/lab/tailscale",
    "tailscaled": "/opt/lab/tailscaled",
}

SYSTEM_UIDS = 1000  # login.defs: regular users start here
OVERFLOW_UID = 65534
PERSON = 1000  # the owner


def build(places: Places, home: House) -> None:
    """Mount the overlay and furnish the server in it as a house.

    Raises LabError if a mount is refused; ``remove`` cleans up whatever was created.
    """
    places.disk.mkdir(parents=True)
    commands.run(["mount", "-t", "tmpfs", "-o", "mode=0700", "immich-lab", str(places.disk)])
    for folder in (places.upper, places.disk / "work", places.root):
        folder.mkdir(mode=0o755)
    _hide_host(places.upper, home)
    # Relative, because commas and colons in the project's path would have to be escaped twice.
    options = "lowerdir=/,upperdir=upper,workdir=work"
    commands.run(["mount", "-t", "overlay", "-o", options, "immich-lab", "root"], cwd=places.disk)
    _dress(places, home)


def remove(places: Places) -> None:
    """Unmount everything at or below the lab's disk and delete the mount point.

    Raises LabError if it stays busy.
    """
    for point in reversed(mounts.under(places.disk)):
        mounts.remove(point)
    if places.disk.exists():
        places.disk.rmdir()


def _hide_host(upper: Path, home: House) -> None:
    for name, mode in EMPTY_FOLDERS.items():
        folder = _make_parents(upper, name)
        folder.mkdir(exist_ok=True)
        folder.chmod(mode)
        os.setxattr(folder, "trusted.overlay.opaque", b"y")
    tops = {name.split("/")[0] for name in EMPTY_FOLDERS} | KEPT_TOP
    for name in sorted(set(os.listdir("/")) - tops):
        _white_out(upper, name)
    for name in ABSENT:
        _white_out(upper, f"etc/{name}")
    for name in ABSENT_DATA:
        _white_out(upper, f"var/lib/{name}")
    there = {*home.programs, home.shell}
    for name in set(ABSENT_PROGRAMS) - there:
        _white_out(upper, f"usr/bin/{name}")
    for name in set(ABSENT_ADMIN_PROGRAMS) - there:
        _white_out(upper, f"usr/sbin/{name}")
    if home.sudo == "none":
        _white_out(upper, "usr/bin/sudo")


def _make_parents(upper: Path, name: str) -> Path:
    """The path of ``name`` in the layer, with parents created with the host's mode and owner."""
    for parent in reversed(Path(name).parents[:-1]):
        folder = upper / parent
        if not folder.exists():
            folder.mkdir()
            original = Path("/") / parent
            if original.is_dir():
                status = original.stat()
                os.chown(folder, status.st_uid, status.st_gid)
                folder.chmod(stat.S_IMODE(status.st_mode))
    return upper / name


def _white_out(upper: Path, name: str) -> None:
    if os.path.lexists(Path("/") / name):
        os.mknod(_make_parents(upper, name), stat.S_IFCHR, os.makedev(0, 0))


def _dress(places: Places, home: House) -> None:
    root = places.root
    _lay_tree(places.sources / "server/root", root)
    _people(root, home, keys.operator_public_text(places.operator_key))
    host_key = keys.host_key()
    keys.write_private(root / "etc/ssh/ssh_host_ed25519_key", keys.private_text(host_key))
    _replace(root / "etc/ssh/ssh_host_ed25519_key.pub", keys.public_text(host_key) + "\n")
    _replace(root / "etc/machine-id", uuid.uuid4().hex + "\n")
    _replace(root / "etc/hostname", MACHINE + "\n")
    _replace(root / "etc/hosts", f"127.0.0.1 localhost\n::1 localhost\n127.0.0.2 {MACHINE}\n")
    _replace(root / "etc/resolv.conf", "nameserver 10.213.1.1\noptions timeout:1 attempts:1\n")
    for name in (
        "usr/local/bin",
        "usr/local/sbin",
        "opt/lab",
        "opt/lab-stub",
        "var/log/journal",
    ):
        (root / name).mkdir(parents=True, exist_ok=True)
    lay.lay(root / "opt/lab-nixos", program("caddy").parent)
    for name, target in LINKED_PROGRAMS.items():
        (root / "usr/local/bin" / name).symlink_to(target)
    _furnish(places, home)


def _furnish(places: Places, home: House) -> None:
    """Lay the house's files over the server."""
    root = places.root
    if (home.folder / "root").exists():
        _lay_tree(home.folder / "root", root)
    for link, target in home.links.items():
        place = root / link.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(target)
    for folder, url in home.flakes.items():
        lock = lay.flake_lock({"nixpkgs": (url, root / "opt/lab-nixos")})
        _replace(root / folder.lstrip("/") / "flake.lock", lock)
    if home.module:
        export = [sys.executable, "-m", "components.remote.module_files", str(root / home.module.lstrip("/"))]
        commands.run(export, cwd=places.project)
    if (prepare := home.folder / "prepare.sh").exists():
        commands.run(["sh", str(prepare), str(root), str(places.phones)])
    own = root / "home" / home.user
    if home.user != "root":
        for path in (own, *own.rglob("*")):
            os.lchown(path, PERSON, PERSON)


def _lay_tree(source: Path, target: Path) -> None:
    """Copy files and links of a tree; modes 0644, or 0755 where git keeps an executable bit."""
    for folder, folders, files in os.walk(source):
        place = target / Path(folder).relative_to(source)
        place.mkdir(exist_ok=True)
        for name in (*files, *(name for name in folders if (Path(folder) / name).is_symlink())):
            original, copy = Path(folder) / name, place / name
            if os.path.lexists(copy):
                copy.unlink()
            shutil.copyfile(original, copy, follow_symlinks=False)
            if not copy.is_symlink():
                copy.chmod(0o755 if original.stat().st_mode & 0o100 else 0o644)


def _people(root: Path, home: House, operator_key: str) -> None:
    """Drop the host's users and add the owner: a host user with uid 1000 would win the name look-up."""
    user = home.user
    gone = _keep_system_entries(root / "etc/passwd", user, id_field=2)
    _keep_system_entries(root / "etc/group", user, id_field=2)
    for name in ("etc/shadow", "etc/gshadow"):
        if (root / name).exists():
            _drop_named(root / name, gone)
    if user != "root":
        _append(root / "etc/passwd", f"{user}:x:{PERSON}:{PERSON}::/home/{user}:{_shell(home)}")
        _append(root / "etc/group", f"{user}:x:{PERSON}:")
        _append(root / "etc/shadow", f"{user}:{_hash(home.password)}:19000::::::")
        own = root / "home" / user
        own.mkdir(mode=0o700)
        os.chown(own, PERSON, PERSON)
    _may(root, home)
    (root / "etc/ssh/authorized_keys.d").mkdir()
    _replace(root / "etc/ssh/authorized_keys.d" / home.login, operator_key + "\n")


def _shell(home: House) -> str:
    path = Path("/bin/bash") if home.shell == "bash" else Path("/usr/bin") / home.shell
    if not path.exists():
        raise LabError(f"The house {home.name} needs {home.shell}; `python -m toolchain setup` installs it.")
    return str(path)


def _hash(password: str) -> str:
    """A password as /etc/shadow stores it; ``*`` if there is none."""
    return commands.run(["openssl", "passwd", "-6", "-stdin"], text=password).strip() if password else "*"


def _may(root: Path, home: House) -> None:
    """Write who may become root, and who may log in over SSH."""
    sudoers = root / "etc/sudoers"
    if home.sudo == "none":
        sudoers.unlink(missing_ok=True)
    elif sudoers.exists():
        free = "NOPASSWD: " if home.sudo == "free" else ""
        _append(sudoers, f"{home.user} ALL=(ALL:ALL) {free}ALL")
        sudoers.chmod(0o440)
    sshd = root / "etc/ssh/sshd_config"
    if home.login == "root":
        text = sshd.read_text().replace("PermitRootLogin no", "PermitRootLogin prohibit-password")
        _replace(sshd, text)
    _append(sshd, f"Port {home.ssh_port}")
    # OpenSSH's first choice (the post-quantum sntrup761) costs seven times as much on either side, and a
    # walk logs in a hundred times.
    _append(sshd, "KexAlgorithms curve25519-sha256,curve25519-sha256@libssh.org")


def _keep_system_entries(path: Path, user: str, *, id_field: int) -> set[str]:
    """Drop the entries of regular users; returns their names.

    Host daemons that a test installs itself are dropped too.
    """
    kept, gone = [], set()
    for line in path.read_text().splitlines():
        fields = line.split(":")
        number = int(fields[id_field])
        if SYSTEM_UIDS <= number < OVERFLOW_UID or (
            fields[0] in (user, "caddy", "immich", "nginx") and fields[0] != "root"
        ):
            gone.add(fields[0])
        else:
            kept.append(line)
    _replace(path, "\n".join(kept) + "\n")
    return gone


def _drop_named(path: Path, names: set[str]) -> None:
    mode = stat.S_IMODE(path.stat().st_mode)
    kept = [line for line in path.read_text().splitlines() if line.split(":")[0] not in names]
    _replace(path, "\n".join(kept) + "\n", mode)


def _append(path: Path, line: str) -> None:
    with path.open("a") as file:
        file.write(line + "\n")


def _replace(path: Path, text: str, mode: int = 0o644) -> None:
    """Replace a file of the server, never through a link of the host."""
    if path.is_symlink():
        path.unlink()
    path.write_text(text)
    path.chmod(mode)
