"""`make who` and `make links`: how the server is reached, and what is shown of its answer."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from pytest_mock import MockerFixture

from components.engine.operator_error import OperatorError
from components.remote import server_report
from components.remote.ssh import SshError

HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ0KX9LFRZ8T3bXnC4mP5pTr7vN1qCeXcY0RwUeQ2mKt"
SETTINGS = {
    "host": "192.168.1.20",
    "hostKey": HOST_KEY,
    "sshPort": 2222,
    "keystorePassphrase": {"secure": "v1:abc"},
    "devices": [{"name": "phone", "platform": "ios"}],
}


def stack(folder: Path, **more: object) -> Path:
    """Write a project with the stack `home`."""
    (folder / "stacks").mkdir()
    (folder / "Pulumi.yaml").write_text("name: immich-exposure\n")
    config = {f"immich-exposure:{key}": value for key, value in {**SETTINGS, **more}.items()}
    (folder / "stacks/Pulumi.home.yaml").write_text(yaml.safe_dump({"config": config}))
    return folder


def test_the_way_there_is_the_stacks_and_nothing_is_decrypted(tmp_path: Path, mocker: MockerFixture) -> None:
    run = mocker.patch("components.remote.server_report.subprocess.run")
    server = server_report.server_of_stack("me/home", stack(tmp_path))
    assert (server.host, server.port, server.user) == ("192.168.1.20", 2222, "admin")
    assert server.host_key == HOST_KEY and server.sudo_password is None and server.stack_id is None
    assert run.call_count == 0


@pytest.mark.parametrize("user", ["admin", "root"])
def test_pulumi_is_asked_for_the_password_of_sudo_alone(
    tmp_path: Path, mocker: MockerFixture, user: str
) -> None:
    run = mocker.patch("components.remote.server_report.subprocess.run")
    run.return_value.returncode, run.return_value.stdout = 0, "open sesame \n"
    secret = {"secure": "v1:def"} if user == "admin" else None
    more = {"sshUser": user} | ({"sudoPassword": secret} if secret else {})
    server = server_report.server_of_stack("home", stack(tmp_path, **more))
    assert server.sudo_password == ("open sesame " if secret else None)
    command = ["pulumi", "config", "get", "sudoPassword", "--stack", "home"]
    assert [call.args[0] for call in run.call_args_list] == ([command] if secret else [])


def test_what_the_server_says_is_shown_as_words(mocker: MockerFixture, tmp_path: Path) -> None:
    server = server_report.server_of_stack("home", stack(tmp_path))
    run = mocker.patch.object(server_report, "run_script", return_value="LINK\n\x1b[31mHoliday\x1b[0m  3\n")
    assert server_report.report(server, "who") == "LINK\nHoliday  3\n"
    assert run.call_args.args[1] == "sudo -n sh -s -- who"
    assert server_report.report(server, "who", page=True) and run.call_args.args[1].endswith(" who --html")
    assert "print_who" in run.call_args.args[2], "the script that the command of the server runs"


def test_what_is_wrong_is_one_sentence(
    tmp_path: Path, mocker: MockerFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    mocker.patch.object(server_report, "PROJECT", stack(tmp_path))
    mocker.patch.object(server_report, "run_script", side_effect=SshError("error: Nobody counts."))
    assert server_report.main(["who", "--stack", "home"]) == 1
    assert capsys.readouterr() == ("", "error: Nobody counts.\n")
    assert server_report.main(["links", "--stack", "other"]) == 1
    assert "Pulumi.other.yaml is missing" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        server_report.main(["links", "--html", "--stack", "home"])


def test_a_way_there_that_is_encrypted_is_not_opened(tmp_path: Path) -> None:
    project = stack(tmp_path, host={"secure": "v1:ghi"})
    with pytest.raises(OperatorError, match=r"host is encrypted in Pulumi.home.yaml.*ask on"):
        server_report.server_of_stack("home", project)


def test_a_password_that_pulumi_does_not_hand_over(tmp_path: Path, mocker: MockerFixture) -> None:
    run = mocker.patch("components.remote.server_report.subprocess.run")
    run.return_value.returncode = 255
    project = stack(tmp_path, sudoPassword={"secure": "v1:def"})
    with pytest.raises(OperatorError, match="sudoPassword could not be read"):
        server_report.server_of_stack("home", project)
