"""Step 5: Caddy, its filters and limits, and fail2ban, as NixOS configuration."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pulumi

from components.certificate_authority import CertificateAuthority
from components.options import child_of
from components.remote_script import SERVER_FILES, PayloadFile, Server, remote_script, script_text, sudo_line

MODULE_FOLDER = "immich-exposure"
"""Where, beside ``expose-immich.nix``, the module's own files lie in the server's configuration folder."""


def server_files(settings: str) -> tuple[PayloadFile, ...]:
    """Return the module and its plain files, with ``settings`` as settings.json.

    The Go program comes last: its list of checksums is long, and what decides who gets in stands above it.
    """
    folders = ("fail2ban", "scripts")
    plain = [SERVER_FILES / "Caddyfile", SERVER_FILES / "versions.json"]
    plain += [
        path for folder in folders for path in sorted((SERVER_FILES / folder).rglob("*")) if path.is_file()
    ]
    program = SERVER_FILES / "caddy"
    sources = [path for path in sorted(program.glob("*.go")) if not path.name.endswith("_test.go")]
    plain += [*sources, program / "go.mod", program / "go.sum"]
    return (
        _file(SERVER_FILES / "expose-immich.nix", "expose-immich.nix"),
        PayloadFile(f"{MODULE_FOLDER}/settings.json", settings),
        *(_file(path, f"{MODULE_FOLDER}/{path.relative_to(SERVER_FILES)}") for path in plain),
    )


def _file(source: Path, destination: str) -> PayloadFile:
    return PayloadFile(destination, source.read_text(encoding="utf-8"))


def digest(files: tuple[PayloadFile, ...]) -> str:
    """Return a short hash of files and their places: the word by which a rebuild knows that it is due."""
    text = json.dumps([[file.path, file.mode, file.text] for file in files])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class NixosConfiguration(pulumi.ComponentResource):
    """Our files in the server's configuration, the import swapped, and a rebuild that undoes itself.

    Destroying it puts ``lan-immich.nix`` back, rebuilds, and takes the files away.
    """

    digest: str
    """Changes when anything that is built or run on the server changes; known at preview."""

    def __init__(
        self,
        name: str,
        *,
        server: Server,
        config_dir: str,
        settings: str,
        proxy_port: int,
        immich_port: int,
        authority: CertificateAuthority,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("immich-exposure:index:NixosConfiguration", name, {}, opts)
        child = child_of(self, opts)
        payload = server_files(settings)
        # The rebuild script is not among what it builds, yet a better script must run once, too.
        self.digest = digest((*payload, PayloadFile("apply.sh", script_text("apply"))))

        files = remote_script(
            f"{name}-files",
            server,
            script="files",
            create=sudo_line("install", config_dir),
            delete=sudo_line("remove", config_dir),
            payload=payload,
            opts=child,
        )
        trust_pool = remote_script(
            f"{name}-trust-pool",
            server,
            script="trust",
            create=sudo_line("install"),
            delete=sudo_line("remove"),
            payload=authority.trusted_pem.apply(lambda pem: (PayloadFile("device-ca.crt", pem),)),
            opts=child,
        )
        self.rebuild = remote_script(
            f"{name}-rebuild",
            server,
            script="apply",
            create=sudo_line("apply", config_dir, proxy_port, immich_port, self.digest),
            delete=sudo_line("restore", config_dir, immich_port),
            opts=pulumi.ResourceOptions(parent=self, depends_on=[files, trust_pool]),
        )
        self.register_outputs({"digest": self.digest})
