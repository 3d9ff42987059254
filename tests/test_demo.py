"""``kiosk demo``: the whole product, as somebody meets it who has just installed it."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from broker import find_mosquitto
from command_line import Kiosk
from runner import run_in_process

from kiosk import demo
from kiosk.demo import DemoError
from kiosk.errors import UnavailableError


def _judge(result: subprocess.CompletedProcess[str]) -> None:
    assert result.returncode == 0, result.stderr
    messages = [json.loads(line) for line in result.stdout.splitlines()]
    assert all(set(message) == {"topic", "payload"} for message in messages)
    events = [m["payload"] for m in messages if m["topic"].endswith("/event/attendance")]
    assert sorted(event["subject"]["id"] for event in events) == ["biden", "biden", "obama", "obama"]
    assert "4 check-ins (obama 2, biden 2); stranger: none" in result.stderr
    assert "Traceback" not in result.stderr


def test_demo(kiosk: Kiosk, tmp_path: Path) -> None:
    if importlib.util.find_spec("iotcore") is None:
        pytest.skip("iotcore is not installed: pip install 'attendance-kiosk[demo]'")
    # Whatever a real kiosk on this machine is configured to do is not the demo's business.
    result = kiosk("demo", "--keep", tmp_path / "kept", env={"KIOSK_CONFIG": "/nowhere", "KIOSK_MQTT__PORT": "1"})
    _judge(result)
    assert "(iotcore) on 127.0.0.1:" in result.stderr
    (folder,) = (tmp_path / "kept").iterdir()
    assert {"config.yaml", "clip.avi", "kiosk.db"} <= {path.name for path in folder.iterdir()}
    port = int(result.stderr.split("on 127.0.0.1:")[1].split()[0])
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0, "the broker is still there"


@pytest.mark.stories
def test_demo_with_the_mosquitto_of_the_machine(kiosk: Kiosk) -> None:
    folder = str(Path(find_mosquitto()).parent)
    program = (
        "import importlib.util, sys\n"
        "found = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: None if name == 'iotcore' else found(name, *rest)\n"
        "from kiosk.cli import main\n"
        "main(['demo'])"
    )
    environment = kiosk._environment_with({"PATH": os.pathsep.join([folder, os.environ.get("PATH", "")])})
    result = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        encoding="utf-8",
        env=environment,
        cwd=kiosk.folder,
        timeout=120,
        check=False,
    )
    _judge(result)
    assert "(mosquitto) on 127.0.0.1:" in result.stderr


def test_without_any_broker_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    with pytest.raises(UnavailableError, match=r"pip install 'attendance-kiosk\[demo\]'"):
        demo.run_demo(tmp_path)


def test_what_takes_too_long_is_told_with_what_to_type(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(demo, "_COMMAND_LIMIT_S", 0.01)
    with pytest.raises(DemoError, match=r"`kiosk run` took longer than 0 s; .*kiosk demo --patience 20"):
        demo._kiosk(tmp_path / "config.yaml", 2.0, "run")


@pytest.mark.parametrize("patience", ["0", "nan", "much", "1e9"])
def test_patience_has_bounds(patience: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_in_process("demo", "--patience", patience) == 64
    assert "Invalid value for '--patience'" in capsys.readouterr().err
