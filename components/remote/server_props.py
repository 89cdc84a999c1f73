"""The connection to the server as properties of a dynamic resource, and back."""

from __future__ import annotations

from typing import Any

import pulumi

from components.remote.remote_script import Server


def server_props(server: Server) -> dict[str, pulumi.Input[Any]]:
    """Return the connection as properties, with a key file's path, never its key. The password is secret."""
    return {
        "host": server.host,
        "port": server.port,
        "user": server.user,
        "hostKey": server.host_key,
        "privateKeyFile": server.private_key_file,
        "sudoPassword": server.sudo_password,
        "stackId": server.stack_id,
        "putRight": server.put_right,
    }


def server_of(props: dict[str, Any]) -> Server:
    """Return the connection that ``server_props`` wrote; the engine returns numbers as floats."""
    return Server(
        host=props["host"],
        port=int(props["port"]),
        user=props["user"],
        host_key=props["hostKey"],
        private_key_file=props.get("privateKeyFile"),
        sudo_password=props.get("sudoPassword"),
        stack_id=props.get("stackId"),
        put_right=props.get("putRight"),
    )
