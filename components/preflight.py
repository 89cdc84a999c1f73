"""Step 0: look at the server before anything is changed on it, and say everything that is in the way."""

from __future__ import annotations

import json
from typing import Any

import pulumi
from pulumi.dynamic import CreateResult, Resource, ResourceProvider, UpdateResult

from components.preflight_rules import Wanted, problems
from components.refusal import Refusal, told_plainly
from components.remote_script import Server, script_text, sudo_line
from components.ssh import run_script


class PreflightError(Refusal):
    """The server is not ready; the message lists every reason with its remedy."""


class _Provider(ResourceProvider):
    serialize_as_secret_always = False  # it captures nothing

    @told_plainly
    def create(self, props: dict[str, Any]) -> CreateResult:
        return CreateResult("preflight", examine(props))

    @told_plainly
    def update(self, _id: str, _olds: dict[str, Any], _news: dict[str, Any]) -> UpdateResult:
        refuse_moving(_olds, _news)
        return UpdateResult(examine(_news))


def refuse_moving(olds: dict[str, Any], news: dict[str, Any]) -> None:
    """Refuse to go on elsewhere with an exposure that stands.

    No command is ever replaced, so what is left behind would stay open, and no run would know of it any more.
    A new address of the same machine (its host key tells) and a machine that was set up anew are fine.

    Raises ``PreflightError`` for another server or another ``configDir``.
    """
    if olds["host"] != news["host"] and olds["hostKey"] != news["hostKey"]:
        raise PreflightError(
            f"Immich is exposed on {olds['host']}, which would stay open if {news['host']} took its place; "
            "run pulumi destroy first, which still goes to the old server. If that one is gone for good, "
            "forget it with pulumi stack rm --force --preserve-config; the keystore stays."
        )
    if olds["configDir"] != news["configDir"]:
        raise PreflightError(
            f"The configuration in {olds['configDir']} exposes Immich, and nothing would restore it once "
            f"configDir is {news['configDir']}; run pulumi destroy first."
        )


def examine(props: dict[str, Any]) -> dict[str, Any]:
    """Gather the facts, judge them, and return the outputs of the resource.

    Raises ``SshError`` when the server cannot be asked and ``PreflightError`` when it is not ready.
    """
    wanted = Wanted(
        config_dir=props["configDir"],
        immich_port=int(props["immichPort"]),
        proxy_port=int(props["proxyPort"]),
        funnel_port=int(props["funnelPort"]),
    )
    facts = _facts(server_of(props), wanted)
    found = problems(facts, wanted)
    if found:
        raise PreflightError(
            "\n".join(["The server is not ready to be exposed:", *(f"- {p}" for p in found)])
        )
    return {
        **props,
        "domain": facts["tailscale"]["CertDomains"][0],
        "tailscaleVersion": facts["tailscaleVersion"],
    }


def _facts(server: Server, wanted: Wanted) -> dict[str, Any]:
    command = sudo_line("facts", wanted.config_dir, wanted.immich_port, wanted.proxy_port)
    answer = run_script(server, command, script_text("preflight"))
    try:
        facts = json.loads(answer)
    except ValueError as error:
        raise PreflightError(
            "The server's answer to the preflight is not JSON; something prints text at login: make the "
            "shell start-up files of the SSH user silent for non-interactive sessions."
        ) from error
    if not isinstance(facts, dict):
        raise PreflightError("The server's answer to the preflight is not a JSON object; run it again.")
    return facts


def server_props(server: Server) -> dict[str, pulumi.Input[Any]]:
    """Return the connection as plain properties of a dynamic resource; a path, never a key."""
    return {
        "host": server.host,
        "port": server.port,
        "user": server.user,
        "hostKey": server.host_key,
        "privateKeyFile": server.private_key_file,
    }


def server_of(props: dict[str, Any]) -> Server:
    """Return the connection that ``server_props`` wrote; numbers come back from the engine as floats."""
    return Server(
        host=props["host"],
        port=int(props["port"]),
        user=props["user"],
        host_key=props["hostKey"],
        private_key_file=props.get("privateKeyFile"),
    )


class _Preflight(Resource, module="immich", name="Preflight"):
    domain: pulumi.Output[str]
    tailscaleVersion: pulumi.Output[str]

    def __init__(self, name: str, props: dict[str, pulumi.Input[Any]], opts: pulumi.ResourceOptions) -> None:
        super().__init__(_Provider(), name, {**props, "domain": None, "tailscaleVersion": None}, opts)


class Preflight(pulumi.ComponentResource):
    """Reads the server, never writes, and fails with every problem at once.

    It runs when the exposure is created and again whenever the connection or the ports change.
    """

    domain: pulumi.Output[str]
    """The node's public name, for example ``immich.tail1234.ts.net``."""

    def __init__(
        self,
        name: str,
        *,
        server: Server,
        config_dir: str,
        immich_port: int,
        proxy_port: int,
        funnel_port: int,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__("immich-exposure:index:Preflight", name, {}, opts)
        self.facts = _Preflight(
            f"{name}-facts",
            {
                **server_props(server),
                "configDir": config_dir,
                "immichPort": immich_port,
                "proxyPort": proxy_port,
                "funnelPort": funnel_port,
            },
            pulumi.ResourceOptions(parent=self),
        )
        self.domain = self.facts.domain
        self.register_outputs({"domain": self.domain})
