"""The program's own lines, those of ``__main__.py``."""

import runpy
import signal

import pulumi
import pytest

from components.config import stack_config as config
from toolchain.paths import PROJECT

PROGRAM = PROJECT / "__main__.py"


def test_a_refused_configuration_is_told_once_and_not_called_unhandled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After 32 the language host adds nothing: ALREADY_REPORTED in toolchain/standins/language_python.py."""

    def refuse() -> None:
        raise config.ConfigError("home", ["host is not set"])

    told: list[str] = []
    monkeypatch.setattr(config, "from_pulumi", refuse)
    monkeypatch.setattr(pulumi.log, "error", told.append)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(PROGRAM))
    assert end.value.code == 32
    assert len(told) == 1 and "host is not set" in told[0]
