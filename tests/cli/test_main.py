"""The command itself."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from frozenseg.cli import COMMANDS, main


def test_help_names_every_command(capsys: pytest.CaptureFixture) -> None:
    assert main(["--help"]) == 0
    output = capsys.readouterr().out
    assert all(name in output for name in COMMANDS)
    assert main([]) == 2


def test_version(capsys: pytest.CaptureFixture) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("frozenseg ")


def test_unknown_commands_get_a_hint(capsys: pytest.CaptureFixture) -> None:
    assert main(["predct"]) == 2
    assert "did you mean 'predict'" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["predict", "convert"])
def test_help_needs_no_torch(command: str) -> None:
    code = (
        "import sys\nfrom frozenseg.cli import main\n"
        f"try:\n    main(['{command}', '--help'])\nexcept SystemExit as stop:\n    assert not stop.code, stop.code\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("buffering", ["", "1"], ids=["buffered", "unbuffered"])
def test_output_that_nobody_reads_on_ends_quietly(buffering: str) -> None:
    code = "import sys\nfrom frozenseg.cli import main\nsys.exit(main(['check-data', 'list']))"
    command = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": buffering},
    )
    assert command.stdout is not None
    command.stdout.close()
    assert command.stderr is not None
    assert command.stderr.read() == b""
    command.stderr.close()
    assert command.wait() == 141
