"""``kiosk check``: what it says of a healthy kiosk, and of every part that can be missing."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from broker import Mosquitto, free_port
from command_line import Kiosk
from runner import assert_one_line_error, copy_store

from kiosk.clip import Scene, write_clip
from kiosk.store import Store

pytestmark = pytest.mark.stories


@pytest.fixture
def healthy(kiosk: Kiosk, _home: Kiosk) -> Kiosk:
    """People, and a camera (a film of an empty room); no broker wanted."""
    copy_store(_home, kiosk)
    write_clip(kiosk.folder / "room.avi", [Scene(0.5)])
    kiosk.configure(camera={"source": str(kiosk.folder / "room.avi")})
    return kiosk


def _check(kiosk: Kiosk, code: int) -> dict[str, tuple[str, str]]:
    """Status and message by name."""
    result = kiosk("check", "--json")
    assert result.returncode == code, result.stdout + result.stderr
    document = json.loads(result.stdout)
    assert document["ok"] is (code == 0)
    if code:
        assert "not ready" in assert_one_line_error(result.stderr)
    return {check["name"]: (check["status"], check["message"]) for check in document["checks"]}


def test_a_kiosk_that_would_run(healthy: Kiosk, tmp_path: Path) -> None:
    with Mosquitto(tmp_path) as broker:
        healthy.configure(mqtt={"enabled": True, "host": "127.0.0.1", "port": broker.port})
        checks = _check(healthy, 0)
    assert list(checks) == [
        "config",
        "model",
        "detector",
        "camera",
        "key",
        "store",
        "backups",
        "outbox",
        "broker",
        "clock",
        "pad",
        "code",
        "web",
        "power",
        "heat",
        "storage",
    ]
    assert {checks[name][0] for name in ("config", "model", "detector", "camera", "store", "outbox", "broker")} == {
        "ok"
    }
    assert "accuracy" in checks["model"][1]
    assert "2 subjects, threshold 0." in checks["store"][1]
    assert checks["pad"][0] == "warn"
    assert "no pad bundle in" in checks["pad"][1]
    described = " ".join(healthy("check", "--help").stdout.split()).partition("one line each")[0]
    assert [name for name in checks if not re.search(rf"\b{name}\b", described)] == []


def test_in_words_one_line_each(healthy: Kiosk) -> None:
    result = healthy("check")
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert len(lines) == 16
    assert all(line.split()[0] in {"OK", "WARN"} for line in lines)


def test_bad_configuration(healthy: Kiosk) -> None:
    healthy.configure(mqtt={"prot": 1})
    checks = _check(healthy, 78)
    assert checks["config"][0] == "fail"
    assert "prot" in checks["config"][1]
    healthy.configure(mqtt={"port": 0})
    told = healthy("check")
    assert [line.split()[:2] for line in told.stdout.splitlines()] == [["FAIL", "config"]] * 2
    assert told.stderr == "kiosk: not ready: config failed\n"


def test_no_camera(healthy: Kiosk) -> None:
    healthy.configure(camera={"source": 63})
    assert _check(healthy, 69)["camera"][0] == "fail"


def test_the_camera_of_a_running_kiosk_is_in_use(healthy: Kiosk) -> None:
    with Store.open(healthy.store) as store, store.daemon_lock():
        # A device that is there and cannot be opened as a camera, as one that another process has.
        healthy.configure(camera={"source": "/dev/null"})
        assert _check(healthy, 0)["camera"] == ("ok", "in use by the running kiosk")
    assert _check(healthy, 69)["camera"][0] == "fail"


def test_no_broker(healthy: Kiosk) -> None:
    healthy.configure(mqtt={"enabled": True, "host": "127.0.0.1", "port": free_port()})
    status, message = _check(healthy, 69)["broker"]
    assert status == "fail"
    assert "nothing listens there" in message


def test_wrong_password(healthy: Kiosk, tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("canary-secret\n")
    password.chmod(0o600)
    with Mosquitto(tmp_path, users={"door": "right"}) as broker:
        healthy.configure(
            mqtt={
                "enabled": True,
                "host": "127.0.0.1",
                "port": broker.port,
                "username": "door",
                "password_file": str(password),
            }
        )
        status, message = _check(healthy, 69)["broker"]
    assert status == "fail"
    assert "password_file" in message
    assert "canary-secret" not in message


@pytest.mark.stories
def test_password_handed_over_by_systemd(healthy: Kiosk, tmp_path: Path) -> None:
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "mqtt-password").write_text("right\n")
    (credentials / "mqtt-password").chmod(0o400)
    with Mosquitto(tmp_path, users={"door": "right"}) as broker:
        healthy.configure(mqtt={"enabled": True, "host": "127.0.0.1", "port": broker.port, "username": "door"})
        assert healthy("check", env={"CREDENTIALS_DIRECTORY": str(credentials)}).returncode == 0
        assert healthy("check", env={"CREDENTIALS_DIRECTORY": str(tmp_path / "none")}).returncode == 69
        # A file that is named counts, not the credential.
        other = tmp_path / "other"
        other.write_text("wrong")
        other.chmod(0o600)
        healthy.configure(mqtt={"password_file": str(other)})
        assert healthy("check", env={"CREDENTIALS_DIRECTORY": str(credentials)}).returncode == 69
        # What others may read is a line among the others.
        other.write_text("right")
        other.chmod(0o644)
        told = healthy("check")
        assert (told.returncode, told.stderr) == (0, "")
        assert f"WARN  broker     {other} can be read by other users: chmod 600 {other}\n" in told.stdout


@pytest.mark.stories
def test_plaintext_to_another_machine(healthy: Kiosk, own_address: str) -> None:
    healthy.configure(mqtt={"enabled": True, "host": own_address, "port": 1883})
    status, message = _check(healthy, 78)["broker"]
    assert (status, "mqtt.allow_plaintext" in message) == ("fail", True)
    refused = healthy("run")
    assert refused.returncode == 78
    assert "mqtt.allow_plaintext" in assert_one_line_error(refused.stderr)
    # Who connects to nobody is not concerned.
    assert healthy("subjects", "list").returncode == 0
    assert healthy("outbox", "list").returncode == 0
    healthy.configure(mqtt={"enabled": False})
    assert _check(healthy, 0)["broker"][0] == "warn"


def test_allowed_plaintext_is_still_told(healthy: Kiosk, tmp_path: Path, own_address: str) -> None:
    with Mosquitto(tmp_path, address=own_address) as broker:
        healthy.configure(
            mqtt={"enabled": True, "host": own_address, "port": broker.port, "allow_plaintext": True},
        )
        status, message = _check(healthy, 0)["broker"]
    assert status == "warn"
    assert "without TLS" in message


def test_no_store_yet_is_no_hindrance(healthy: Kiosk) -> None:
    for path in healthy.folder.glob("kiosk.db*"):
        path.unlink()
    status, message = _check(healthy, 0)["store"]
    assert status == "warn"
    assert "creates it" in message
    assert not healthy.store.exists()


def test_nobody_enrolled(healthy: Kiosk) -> None:
    with Store.open(healthy.store) as store:
        for subject in store.subjects():
            store.remove_subject(subject.id)
    status, message = _check(healthy, 0)["store"]
    assert status == "warn"
    assert "nobody is enrolled" in message


def test_a_damaged_store(healthy: Kiosk) -> None:
    healthy.store.write_bytes(b"no database at all, just text " * 100)
    assert _check(healthy, 73)["store"][0] == "fail"
