"""The command stand-in keeps to what pulumi-command 1.2.1 does, over real gRPC and real SSH."""

import threading
from pathlib import Path

import grpc  # type: ignore[import-untyped]
import pytest
from google.protobuf import empty_pb2  # type: ignore[import-untyped]
from pulumi.runtime.proto import provider_pb2, provider_pb2_grpc

from tests.standins.engine import EngineLog, SshServer, openssh_key
from toolchain.standins.command_plugin import COPY_TO_REMOTE, LOCAL_COMMAND, REMOTE_COMMAND, resource_type
from toolchain.standins.properties import (
    ASSET_SIGNATURE,
    SIGNATURE,
    UNKNOWN,
    Properties,
    Property,
    Secret,
    decode,
    encode,
)

Stub = provider_pb2_grpc.ResourceProviderStub


def urn(token: str) -> str:
    return f"urn:pulumi:lab::exposure::x:index:Parent${token}::thing"


def check(plugin: Stub, token: str, inputs: Properties) -> tuple[Properties, dict[str, str]]:
    answer = plugin.Check(provider_pb2.CheckRequest(urn=urn(token), news=encode(inputs)))
    return decode(answer.inputs), {failure.property: failure.reason for failure in answer.failures}


def checked(plugin: Stub, token: str, inputs: Properties) -> Properties:
    found, failures = check(plugin, token, inputs)
    assert failures == {}
    return found


def create(plugin: Stub, token: str, inputs: Properties, preview: bool = False) -> Properties:
    request = provider_pb2.CreateRequest(urn=urn(token), properties=encode(inputs), preview=preview)
    return decode(plugin.Create(request).properties)


def update(plugin: Stub, token: str, old: Properties, new: Properties, preview: bool = False) -> Properties:
    request = provider_pb2.UpdateRequest(
        id="thing1", urn=urn(token), olds=encode(old), news=encode(new), preview=preview
    )
    return decode(plugin.Update(request).properties)


def delete(plugin: Stub, token: str, state: Properties) -> None:
    plugin.Delete(provider_pb2.DeleteRequest(id="thing1", urn=urn(token), properties=encode(state)))


def diff(plugin: Stub, token: str, old: Properties, new: Properties) -> provider_pb2.DiffResponse:
    request = provider_pb2.DiffRequest(id="thing1", urn=urn(token), olds=encode(old), news=encode(new))
    answer: provider_pb2.DiffResponse = plugin.Diff(request)
    return answer


@pytest.fixture
def remote(plugin: Stub, ssh_server: SshServer) -> Properties:
    """Checked inputs of a remote command that greets."""
    return checked(
        plugin, REMOTE_COMMAND, {"connection": ssh_server.connection(), "create": "echo hello; echo oops >&2"}
    )


def test_the_type_of_a_child_is_the_last_of_its_parents_chain() -> None:
    assert resource_type(urn(REMOTE_COMMAND)) == REMOTE_COMMAND


class TestCheck:
    def test_makes_the_connection_secret_and_fills_in_defaults(self, remote: Properties) -> None:
        connection = remote["connection"]
        assert isinstance(connection, Secret) and isinstance(connection.value, dict)
        assert connection.value["user"] == "root"
        assert connection.value["perDialTimeout"] == 15
        assert remote["addPreviousOutputInEnv"] is True

    @pytest.mark.parametrize(
        ("inputs", "property_name"),
        [
            ({"create": "true"}, "connection"),
            ({"connection": {"host": "a", "passwrod": "hunter2"}, "create": "true"}, "connection"),
            ({"connection": {"host": "a"}, "create": 3.0}, "create"),
            ({"connection": {"host": "a"}, "craete": "true"}, "craete"),
            ({"connection": {"host": "a"}, "create": "true", "logging": "loud"}, "logging"),
        ],
    )
    def test_names_what_is_wrong_without_its_value(
        self, plugin: Stub, inputs: Properties, property_name: str
    ) -> None:
        _, failures = check(plugin, REMOTE_COMMAND, inputs)
        assert list(failures) == [property_name]
        assert "hunter2" not in failures[property_name]

    def test_takes_unknown_values_of_a_preview(self, plugin: Stub) -> None:
        inputs: Properties = {
            "connection": {"host": UNKNOWN, "privateKey": Secret(UNKNOWN)},
            "create": UNKNOWN,
        }
        assert checked(plugin, REMOTE_COMMAND, inputs)["create"] is UNKNOWN

    def test_says_what_only_the_official_plugin_does(self, plugin: Stub) -> None:
        _, failures = check(plugin, LOCAL_COMMAND, {"create": "true", "assetPaths": ["*"]})
        assert "official plugin" in failures["assetPaths"]


class TestDiff:
    def test_equal_inputs_are_no_change(self, plugin: Stub, remote: Properties) -> None:
        state = {**remote, "stdout": "hello", "stderr": ""}
        assert diff(plugin, REMOTE_COMMAND, state, remote).changes == provider_pb2.DiffResponse.DIFF_NONE

    def test_a_changed_input_updates(self, plugin: Stub, remote: Properties) -> None:
        found = diff(plugin, REMOTE_COMMAND, remote, {**remote, "stdin": "new"})
        assert (list(found.diffs), list(found.replaces)) == (["stdin"], [])
        assert found.detailedDiff["stdin"].kind == provider_pb2.PropertyDiff.ADD

    def test_changed_triggers_replace_and_create_comes_first(self, plugin: Stub, remote: Properties) -> None:
        found = diff(plugin, REMOTE_COMMAND, {**remote, "triggers": [1.0]}, {**remote, "triggers": [2.0]})
        assert list(found.replaces) == ["triggers"]
        assert not found.deleteBeforeReplace


class TestRemoteCommand:
    def test_create_keeps_both_streams_less_one_newline(self, plugin: Stub, remote: Properties) -> None:
        state = create(plugin, REMOTE_COMMAND, {**remote, "create": "printf 'a\\n\\n'; printf b >&2"})
        assert (state["stdout"], state["stderr"]) == ("a\n", "b")

    def test_preview_runs_nothing_and_knows_no_output(
        self, plugin: Stub, remote: Properties, ssh_server: SshServer
    ) -> None:
        state = create(plugin, REMOTE_COMMAND, remote, preview=True)
        changed = update(plugin, REMOTE_COMMAND, state, {**remote, "update": "echo up"}, preview=True)
        assert state["stdout"] is UNKNOWN and changed["stderr"] is UNKNOWN
        assert ssh_server.connections == 0

    def test_update_runs_its_own_text(self, plugin: Stub, remote: Properties, ssh_server: SshServer) -> None:
        new = {**remote, "update": "echo changed"}
        assert (
            update(plugin, REMOTE_COMMAND, create(plugin, REMOTE_COMMAND, remote), new)["stdout"] == "changed"
        )
        assert ssh_server.commands[-1] == "echo changed"

    def test_update_without_a_text_creates_again(
        self, plugin: Stub, remote: Properties, ssh_server: SshServer
    ) -> None:
        update(plugin, REMOTE_COMMAND, remote, {**remote, "stdin": "x"})
        assert ssh_server.commands == [remote["create"]]

    def test_delete_runs_the_text_and_stdin_of_the_state(
        self, plugin: Stub, remote: Properties, tmp_path: Path
    ) -> None:
        delete(plugin, REMOTE_COMMAND, {**remote, "delete": f"cat >{tmp_path}/seen", "stdin": "last"})
        assert (tmp_path / "seen").read_text() == "last"

    def test_delete_without_a_text_does_not_connect(
        self, plugin: Stub, remote: Properties, ssh_server: SshServer
    ) -> None:
        delete(plugin, REMOTE_COMMAND, remote)
        assert ssh_server.connections == 0

    def test_failure_shows_command_streams_and_status(self, plugin: Stub, remote: Properties) -> None:
        with pytest.raises(grpc.RpcError) as failed:
            create(plugin, REMOTE_COMMAND, {**remote, "create": 'echo "out"; echo err >&2; exit 3'})
        message = failed.value.details()
        assert message.startswith(
            'Process exited with status 3: running "echo \\"out\\"; echo err >&2; exit 3":\n'
        )
        assert "out\n" in message and "err\n" in message

    def test_large_stdin_and_output_pass(self, plugin: Stub, remote: Properties) -> None:
        content = "0123456789abcdef" * 20000
        state = create(
            plugin, REMOTE_COMMAND, {**remote, "logging": "none", "create": "cat", "stdin": content}
        )
        assert state["stdout"] == content

    def test_a_secret_input_makes_the_output_secret(self, plugin: Stub, remote: Properties) -> None:
        state = create(plugin, REMOTE_COMMAND, {**remote, "create": Secret("echo key")})
        assert state["stdout"] == Secret("key")

    def test_the_secret_connection_alone_does_not(self, plugin: Stub, remote: Properties) -> None:
        assert create(plugin, REMOTE_COMMAND, remote)["stdout"] == "hello"

    def test_environment_that_the_server_refuses_is_an_error(
        self, plugin: Stub, remote: Properties, ssh_server: SshServer
    ) -> None:
        inputs: Properties = {**remote, "environment": {"GREETING": "hi"}, "create": 'echo "$GREETING"'}
        with pytest.raises(grpc.RpcError, match='could not set environment variable "GREETING"'):
            create(plugin, REMOTE_COMMAND, inputs)
        ssh_server.accepted_variables.add("GREETING")
        assert create(plugin, REMOTE_COMMAND, inputs)["stdout"] == "hi"

    @pytest.mark.parametrize(("wanted", "seen"), [(True, "hello"), (False, "")])
    def test_the_next_run_gets_the_output_of_the_last(
        self, plugin: Stub, remote: Properties, ssh_server: SshServer, wanted: bool, seen: str
    ) -> None:
        ssh_server.accepted_variables |= {"PULUMI_COMMAND_STDOUT", "PULUMI_COMMAND_STDERR"}
        new: Properties = {
            **remote,
            "update": 'echo "$PULUMI_COMMAND_STDOUT"',
            "addPreviousOutputInEnv": wanted,
        }
        assert update(plugin, REMOTE_COMMAND, create(plugin, REMOTE_COMMAND, remote), new)["stdout"] == seen

    @pytest.mark.parametrize(
        ("logging", "lines"),
        [
            ("stdoutAndStderr", {"hello", "oops"}),
            ("stdout", {"hello"}),
            ("stderr", {"oops"}),
            ("none", set()),
        ],
    )
    def test_only_the_wanted_streams_are_logged(
        self,
        plugin: Stub,
        remote: Properties,
        engine: tuple[str, EngineLog],
        logging: str,
        lines: set[str],
    ) -> None:
        create(plugin, REMOTE_COMMAND, {**remote, "logging": logging})
        assert set(engine[1].lines) == lines

    def test_a_terminal_is_shown_words_alone(
        self, plugin: Stub, remote: Properties, engine: tuple[str, EngineLog]
    ) -> None:
        hostile = r"\033]52;c;cm0gLXJmIH4K\007\033[2J"
        inputs: Properties = {**remote, "logging": "stderr", "create": f"printf '{hostile}hi\\n' >&2; exit 3"}
        with pytest.raises(grpc.RpcError) as refused:
            create(plugin, REMOTE_COMMAND, inputs)
        assert engine[1].lines == ["hi"]
        assert str(refused.value.details()).endswith(":\nhi\n")

    def test_commands_run_side_by_side(self, plugin: Stub, remote: Properties, tmp_path: Path) -> None:
        """Each of two commands waits for the file of the other: one after the other they would never end."""

        def meet(mine: str, other: str) -> str:
            wait = f"i=0; until [ -e {other} ] || [ $i = 200 ]; do sleep 0.05; i=$((i+1)); done"
            return f"cd {tmp_path}; touch {mine}; {wait}; [ -e {other} ]"

        problems: list[grpc.RpcError] = []

        def run(text: str) -> None:
            try:
                create(plugin, REMOTE_COMMAND, {**remote, "create": text})
            except grpc.RpcError as error:
                problems.append(error)

        threads = [threading.Thread(target=run, args=(meet(*pair),)) for pair in (("a", "b"), ("b", "a"))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert problems == []


class TestConnection:
    def run(self, plugin: Stub, connection: Property) -> Properties:
        inputs = checked(plugin, REMOTE_COMMAND, {"connection": connection, "create": "echo hello"})
        return create(plugin, REMOTE_COMMAND, inputs)

    def test_another_host_key_is_refused_before_any_authentication(
        self, plugin: Stub, ssh_server: SshServer
    ) -> None:
        other = SshServer()
        other.close()
        with pytest.raises(grpc.RpcError, match="ssh: handshake failed: ssh: host key mismatch"):
            self.run(plugin, ssh_server.connection(hostKey=other.host_key))
        assert ssh_server.commands == []

    def test_a_host_key_of_another_type_is_refused(self, plugin: Stub, ssh_server: SshServer) -> None:
        pinned = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFvjHPjGZoLZL6jmyfVuQkHPN3nU3yvIJLWoLwPZEkZF"
        with pytest.raises(grpc.RpcError, match="no common algorithm for host key"):
            self.run(plugin, ssh_server.connection(hostKey=pinned))

    def test_an_rsa_host_key_fails_as_with_the_official_plugin(self, plugin: Stub) -> None:
        server = SshServer(rsa=True)
        try:
            with pytest.raises(grpc.RpcError, match="no common algorithm for host key; we offered: .ssh-rsa"):
                self.run(plugin, server.connection())
        finally:
            server.close()

    def test_an_unreadable_host_key_is_refused(self, plugin: Stub, ssh_server: SshServer) -> None:
        with pytest.raises(grpc.RpcError, match="failed to parse host key"):
            self.run(plugin, ssh_server.connection(hostKey="SHA256:abcdef"))

    def test_a_key_the_server_does_not_know_is_refused(self, plugin: Stub, ssh_server: SshServer) -> None:
        with pytest.raises(grpc.RpcError, match="unable to authenticate"):
            self.run(plugin, ssh_server.connection(privateKey=openssh_key()))

    def test_an_encrypted_key_needs_its_password(self, plugin: Stub, ssh_server: SshServer) -> None:
        locked = openssh_key(b"open sesame")
        with pytest.raises(grpc.RpcError, match="passphrase protected"):
            self.run(plugin, ssh_server.connection(privateKey=locked))
        with pytest.raises(grpc.RpcError, match="unable to authenticate"):
            self.run(plugin, ssh_server.connection(privateKey=locked, privateKeyPassword="open sesame"))

    def test_a_dead_agent_fails_even_with_a_key(
        self, plugin: Stub, ssh_server: SshServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "gone"))
        with pytest.raises(grpc.RpcError, match="dial unix .*: no such file or directory"):
            self.run(plugin, ssh_server.connection())
        assert ssh_server.connections == 0

    def test_the_limit_counts_retries(
        self, plugin: Stub, ssh_server: SshServer, engine: tuple[str, EngineLog]
    ) -> None:
        with pytest.raises(grpc.RpcError, match="after 2 failed attempts: .*unable to authenticate"):
            self.run(plugin, ssh_server.connection(privateKey=openssh_key(), dialErrorLimit=2.0))
        assert ssh_server.connections == 3
        assert engine[1].lines == ["Dial 1/2 failed: retrying", "Dial 2/2 failed: retrying"]

    def test_cancel_ends_the_retries(self, plugin: Stub, ssh_server: SshServer) -> None:
        plugin.Cancel(empty_pb2.Empty())
        with pytest.raises(grpc.RpcError, match="context canceled"):
            self.run(plugin, ssh_server.connection(privateKey=openssh_key(), dialErrorLimit=8.0))


class TestLocalCommand:
    def test_life_of_a_command(self, plugin: Stub, tmp_path: Path) -> None:
        inputs = checked(
            plugin,
            LOCAL_COMMAND,
            {
                "create": "echo $NAME; cat >made",
                "delete": "rm made",
                "dir": str(tmp_path),
                "environment": {"NAME": "thing"},
                "stdin": "text",
            },
        )
        state = create(plugin, LOCAL_COMMAND, inputs)
        assert state["stdout"] == "thing"
        assert (tmp_path / "made").read_text() == "text"
        delete(plugin, LOCAL_COMMAND, state)
        assert list(tmp_path.iterdir()) == []

    def test_failure(self, plugin: Stub) -> None:
        with pytest.raises(grpc.RpcError, match='exit status 4: running "exit 4"'):
            create(plugin, LOCAL_COMMAND, {"create": "exit 4"})

    def test_interpreter(self, plugin: Stub) -> None:
        state = create(plugin, LOCAL_COMMAND, {"create": "said", "interpreter": ["/bin/echo", "I"]})
        assert state["stdout"] == "I said"


class TestCopyToRemote:
    def inputs(self, plugin: Stub, server: SshServer, target: Path, text: str) -> Properties:
        source: Property = {SIGNATURE: ASSET_SIGNATURE, "text": text, "hash": f"hash of {text}"}
        return checked(
            plugin,
            COPY_TO_REMOTE,
            {"connection": server.connection(), "source": source, "remotePath": str(target)},
        )

    def test_text_lands_there_and_stays_after_delete(
        self, plugin: Stub, ssh_server: SshServer, tmp_path: Path
    ) -> None:
        target = tmp_path / "copied"
        state = create(plugin, COPY_TO_REMOTE, self.inputs(plugin, ssh_server, target, "one"))
        assert target.read_text() == "one"
        delete(plugin, COPY_TO_REMOTE, state)
        assert target.exists()

    def test_only_new_content_is_copied(self, plugin: Stub, ssh_server: SshServer, tmp_path: Path) -> None:
        target = tmp_path / "copied"
        state = create(plugin, COPY_TO_REMOTE, self.inputs(plugin, ssh_server, target, "one"))
        before = ssh_server.connections
        update(plugin, COPY_TO_REMOTE, state, self.inputs(plugin, ssh_server, target, "one"))
        assert ssh_server.connections == before
        update(plugin, COPY_TO_REMOTE, state, self.inputs(plugin, ssh_server, target, "two"))
        assert target.read_text() == "two"

    def test_a_missing_folder_is_an_error(self, plugin: Stub, ssh_server: SshServer, tmp_path: Path) -> None:
        inputs = self.inputs(plugin, ssh_server, tmp_path / "no" / "copied", "one")
        with pytest.raises(grpc.RpcError, match="failed to copy to remote path"):
            create(plugin, COPY_TO_REMOTE, inputs)


def test_read_takes_the_state_as_it_stands(plugin: Stub) -> None:
    state = encode({"create": "true", "stdout": "then"})
    answer = plugin.Read(provider_pb2.ReadRequest(id="thing1", urn=urn(LOCAL_COMMAND), properties=state))
    assert (answer.id, decode(answer.properties)["stdout"]) == ("thing1", "then")
