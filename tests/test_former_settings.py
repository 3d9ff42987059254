"""A configuration of an earlier version: still taken, told where it stands, and rewritten by ``kiosk config migrate``.

Nothing has been renamed so far: these tests put entries into the table for themselves.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from command_line import Kiosk
from runner import assert_one_line_error, run_in_process

from kiosk.config import FORMER, Former, field_guides, load, load_traced
from kiosk.errors import ConfigError

OLD = """\
# our kiosk
device: {site: hq}
mqtt:
    server: broker.example   # in the cellar
    "tcp-port": 8883
    tls: {}
    qos: 1                   # always
    zone: Asia/Seoul
store:
    retention_days: 30
"""
NEW = """\
# our kiosk
device: {site: hq}
mqtt:
    host: broker.example   # in the cellar
    port: 8883
    tls: {}
    # qos: 1                   # always
store:
    days: 30
"""
TABLE = {
    ("mqtt", "server"): Former(("mqtt", "host")),
    ("mqtt", "tcp-port"): Former(("mqtt", "port")),
    ("mqtt", "qos"): Former(None, "every event is sent with QoS 1"),
    ("mqtt", "zone"): Former(("device", "timezone")),
    ("camera_index",): Former(("camera", "source")),
    ("store", "days"): Former(("store", "retention_days")),
}


@pytest.fixture(autouse=True)
def _table(monkeypatch: pytest.MonkeyPatch) -> None:
    for path, former in TABLE.items():
        monkeypatch.setitem(FORMER, path, former)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KIOSK_CONFIG", "config.yaml")
    return tmp_path / "config.yaml"


def test_the_table_names_settings_that_are_there_and_none_that_are_in_use() -> None:
    for path, former in FORMER.items():
        assert path not in field_guides()
        assert former.now in field_guides() if former.now is not None else former.why


def test_an_old_file_loads_with_a_line_for_each(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    file.write_text(OLD)
    config = load(Path("config.yaml"), {})
    assert (config.mqtt.host, config.mqtt.port, config.device.timezone) == ("broker.example", 8883, "Asia/Seoul")
    assert [record.getMessage() for record in caplog.records] == [
        "config.yaml:4: mqtt.server: is mqtt.host now; `kiosk config migrate` rewrites the file",
        "config.yaml:5: mqtt.tcp-port: is mqtt.port now; `kiosk config migrate` rewrites the file",
        "config.yaml:7: mqtt.qos: is without effect now (every event is sent with QoS 1)",
        "config.yaml:8: mqtt.zone: is device.timezone now; `kiosk config migrate` rewrites the file",
    ]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("mqtt: {server: a, host: b}", "config.yaml:1: mqtt.server: is mqtt.host now, which is set, too"),
        ("mqtt: {server: 5}", "config.yaml:1: mqtt.host: must be a host name or IP address, not 5"),
        ("mqtt: [server]", "config.yaml:1: mqtt: must be a section, not a list"),
        ("mqtt: {servers: a}", "config.yaml:1: mqtt.servers: unknown key"),
    ],
)
def test_what_is_wrong_with_it_is_told_as_ever(file: Path, content: str, told: str) -> None:
    file.write_text(content)
    with pytest.raises(ConfigError) as caught:
        load(Path("config.yaml"), {})
    assert str(caught.value).startswith(told)


@pytest.mark.parametrize(
    ("environ", "host", "told"),
    [
        ({"KIOSK_MQTT__SERVER": "a"}, "a", "KIOSK_MQTT__SERVER: is KIOSK_MQTT__HOST now; rename it where it is set"),
        (
            {"KIOSK_MQTT__SERVER": "a", "KIOSK_MQTT__HOST": "b"},
            "b",
            "KIOSK_MQTT__SERVER: is KIOSK_MQTT__HOST now; rename it where it is set",
        ),
        (
            {"KIOSK_MQTT__QOS": "2"},
            "localhost",
            "KIOSK_MQTT__QOS: is without effect now (every event is sent with QoS 1)",
        ),
    ],
)
def test_old_variables_count_too(environ: Mapping[str, str], host: str, told: str, file: Path) -> None:
    file.write_text("")
    loaded = load_traced(file, environ)
    assert (loaded.config.mqtt.host, loaded.former) == (host, (told,))


def migrate(*arguments: str) -> int:
    return run_in_process("config", "migrate", *arguments)


def test_migrate_keeps_comments_and_a_copy_and_the_meaning(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = OLD.replace("    zone: Asia/Seoul\n", "").replace("retention_days", "days")
    file.write_text(old)
    file.chmod(0o640)
    before = load(file, {})
    assert migrate("--dry-run") == 0
    assert "+    host: broker.example   # in the cellar" in capsys.readouterr().out
    assert file.read_text() == old
    assert migrate() == 0
    assert file.read_text() == NEW.replace("    days: 30", "    retention_days: 30")
    assert file.stat().st_mode & 0o777 == 0o640
    (kept,) = file.parent.glob("config.yaml.*.bak")
    assert kept.read_text() == old
    assert sorted(path.name for path in file.parent.iterdir()) == ["config.yaml", kept.name]
    loaded = load_traced(file, {})
    assert (loaded.config, loaded.former) == (before, ())
    capsys.readouterr()
    assert migrate() == 0
    assert capsys.readouterr().out == "config.yaml: up to date\n"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (
            "device:\n   site: hq\nmqtt:\n  zone: Asia/Seoul # here\n",
            "device:\n   timezone: Asia/Seoul # here\n   site: hq\nmqtt:\n",
        ),
        ("mqtt:\n  zone: Asia/Seoul", "mqtt:\ndevice:\n  timezone: Asia/Seoul\n"),
        ("camera_index: 2\ncamera:\n  fps: 5\n", "camera:\n  source: 2\n  fps: 5\n"),
        ("mqtt:\r\n  server: b\r\n", "mqtt:\r\n  host: b\r\n"),
        ("mqtt: {'server': b, port: 1884}\n", "mqtt: {host: b, port: 1884}\n"),
    ],
)
def test_what_has_moved_is_put_into_its_section(file: Path, old: str, new: str) -> None:
    file.write_bytes(old.encode())
    before = load(file, {})
    assert migrate() == 0
    assert file.read_bytes().decode() == new
    assert load(file, {}) == before


@pytest.mark.parametrize(
    "content",
    ["mqtt: {zone: Asia/Seoul}\n", "device: {site: hq}\nmqtt:\n  zone: Asia/Seoul\n", "mqtt:\n  qos:\n    - 1\n"],
)
def test_what_it_cannot_rewrite_it_leaves_to_a_person(
    file: Path, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text(content)
    assert migrate() == 65
    assert "by hand" in assert_one_line_error(capsys.readouterr().err)
    assert file.read_text() == content
    assert [path.name for path in file.parent.iterdir()] == ["config.yaml"]


def test_show_tells_where_each_setting_comes_from(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text("camera: {source: 'rtsp://admin:secret@10.0.0.7/s'}\nmqtt:\n  server: b\n  username: kiosk\n")
    monkeypatch.setenv("KIOSK_MQTT__PORT", "1884")
    assert run_in_process("config", "show", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    shown = {setting["name"]: (setting["value"], setting["origin"]) for setting in document["settings"]}
    assert shown["mqtt.host"] == ("b", "config.yaml:3")
    assert shown["mqtt.port"] == (1884, "KIOSK_MQTT__PORT")
    assert shown["mqtt.username"] == ("(hidden)", "config.yaml:4")
    assert shown["store.backups.keep"] == (7, "default")
    assert shown["mqtt.tls"] == (None, "default")
    assert "secret" not in str(document)
    assert len(document["former"]) == 1
    assert run_in_process("config", "show") == 0
    output = capsys.readouterr()
    assert "mqtt.host: b\t(config.yaml:3)\n" in output.out
    assert output.err == f"note: {document['former'][0]}\n"


def test_check_tells_every_problem(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text("mqtt: {server: b}\n")
    assert run_in_process("config", "check") == 0
    assert capsys.readouterr().out == "config.yaml: 1 setting, no problem\n"
    file.write_text("mqtt: {post: 1}\nstores: {}\n")
    assert run_in_process("config", "check") == 78
    assert len(capsys.readouterr().err.splitlines()) == 2
    assert run_in_process("config", "check", "--json") == 78
    assert [line[:14] for line in json.loads(capsys.readouterr().out)["problems"]] == [
        "config.yaml:1:",
        "config.yaml:2:",
    ]


def test_without_a_file_there_is_nothing_to_rewrite(kiosk: Kiosk) -> None:
    kiosk.config.unlink()
    result = kiosk("config", "migrate", env={"KIOSK_CONFIG": ""})
    assert result.returncode == 65
    assert "no configuration file" in assert_one_line_error(result.stderr)
    assert kiosk("config", "show", env={"KIOSK_CONFIG": ""}).returncode == 0
