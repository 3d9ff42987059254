"""The command line's shell: help, usage errors, exit codes, one-line errors, and how fast it starts."""

from __future__ import annotations

import errno
import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import Kiosk
from runner import assert_one_line_error, run_in_process

from kiosk import __version__, build, cli
from kiosk.errors import BrokerError, ConfigError, InputError

COMMANDS = list(cli._COMMANDS)


def test_help_lists_every_command_and_its_purpose(kiosk: Kiosk) -> None:
    result = kiosk("--help")
    assert result.returncode == 0
    assert result.stderr == ""
    for name, (_, short_help) in cli._COMMANDS.items():
        assert name in result.stdout
        assert short_help in result.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_starts_by_itself_and_its_help_begins_with_the_line_listed(kiosk: Kiosk, name: str) -> None:
    # A Python of its own: the other tests' commands find their libraries loaded (tests/warm.py).
    process = kiosk.start(name, "--help")
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stderr) == (0, "")
    assert cli._COMMANDS[name][1] in " ".join(stdout.split())


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["frobnicate"]])
def test_what_needs_no_command_imports_nothing_heavy(arguments: list[str]) -> None:
    heavy = {"numpy", "cv2", "pydantic", "yaml", "paho", "sqlite_utils", "sqlite3", "ai_edge_litert", "tqdm"}
    program = (
        "import sys, kiosk.cli\n"
        f"kiosk.cli.run({arguments!r})\n"
        f"print(sorted({heavy!r} & set(sys.modules)), file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stderr.splitlines()[-1] == "[]"


def test_version_tells_the_build(kiosk: Kiosk, repo: Path) -> None:
    result = kiosk("--version")
    assert result.returncode == 0
    found = re.fullmatch(r"kiosk (\S+) \(commit (\S+), source checkout, Python (\S+) on \S+\)\n", result.stdout)
    assert found
    commit = build.find_commit(repo) or "unknown"
    assert found.groups() == (__version__, commit, platform.python_version())


def test_no_command_shows_help_on_stderr(kiosk: Kiosk) -> None:
    result = kiosk()
    assert result.returncode == 64
    assert result.stdout == ""
    assert "Usage: kiosk" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["frobnicate"],
        ["--frobnicate"],
        ["verify"],
        ["verify", "one.jpg"],
        ["identify"],
        ["enroll"],
        ["enroll", "E1"],
        ["enroll", "E1", "a.jpg", "--from-dir", "photos"],
        ["enroll", "E1", "a.jpg", "--report", "r.csv"],
        ["subjects"],
        ["subjects", "rename", "E1"],
        ["model"],
        ["model", "install"],
        ["events", "--format", "xml"],
        ["events", "--since", "yesterdayish"],
        ["verify", "a.jpg", "b.jpg", "--plot", "out.gif"],
    ],
)
def test_usage_errors_are_one_line_and_64(
    arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KIOSK_STORE__PATH", str(tmp_path / "kiosk.db"))
    assert run_in_process(*arguments) == 64
    out, err = capsys.readouterr()
    assert out == ""
    assert_one_line_error(err)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["evnts"], "Did you mean 'events'?"),
        (["subjects", "lst"], "Did you mean 'list'?"),
        (["outbox", "retry", "x"], "'x' is not a valid whole number"),
        (["calibrate", "--fpir", "x"], "'x' is not a valid number"),
        (["enroll", "obama.jpg", "biden.jpg"], "no id given: kiosk enroll ID obama.jpg biden.jpg"),
    ],
)
def test_a_mistype_is_told_with_what_was_meant(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, samples: Path
) -> None:
    monkeypatch.chdir(samples)
    assert run_in_process(*arguments) == 64
    assert told in assert_one_line_error(capsys.readouterr().err)


@pytest.mark.parametrize(
    ("failure", "code", "text"),
    [
        (InputError("a.jpg: no face found"), 65, "kiosk: a.jpg: no face found\n"),
        (BrokerError("nobody there"), 69, "kiosk: nobody there\n"),
        (InputError("two\nlines"), 65, "kiosk: two\\nlines\n"),
        (ConfigError("c.yaml:1: first\nc.yaml:2: second"), 78, "kiosk: c.yaml:1: first\nkiosk: c.yaml:2: second\n"),
        (PermissionError(errno.EACCES, "Permission denied", "x"), 77, "kiosk: x: Permission denied"),
        (OSError(errno.ENOSPC, "No space left on device", "x"), 74, "kiosk: x: No space left on device"),
        (ValueError("surprise"), 70, "kiosk: internal error: ValueError: surprise; please report it"),
    ],
)
def test_every_failure_has_its_code_and_one_line(
    failure: Exception, code: int, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli._explain(failure, debug=False) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(text)
    assert "Traceback" not in err


def test_debug_shows_where_it_happened(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        _ = 1 / len("")
    cli._explain(caught.value, debug=True)
    assert "Traceback" in capsys.readouterr().err


def test_a_line_that_a_terminal_would_obey_is_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    cli._explain(InputError("\x1b[2Jgone\x07 한글"), debug=False)
    assert capsys.readouterr().err == "kiosk: \\x1b[2Jgone\\x07 한글\n"


def test_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(**_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.cli, "main", interrupt)
    assert run_in_process() == 130


def test_a_reader_that_goes_away_is_no_error(kiosk: Kiosk) -> None:
    process = kiosk.start("model", "list", "--json")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(30) in {0, 74}


def test_a_full_disk_under_stdout_is_told(kiosk: Kiosk) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(
            [sys.executable, "-m", "kiosk", "model", "list", "--config", str(kiosk.config)],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[1])},
        )
    assert result.returncode == 74
    assert_one_line_error(result.stderr)


@pytest.mark.parametrize("arguments", [["model", "list"], ["check"]])
def test_json_is_one_document_and_logs_stay_away(kiosk: Kiosk, arguments: list[str]) -> None:
    result = kiosk(*arguments, "--json", "-vv")
    json.loads(result.stdout)
