"""The configuration file and the environment: what is taken, and how every mistake is told."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from kiosk.config import Config, TlsSection, field_guides, load
from kiosk.daemon import broker_settings
from kiosk.errors import ConfigError
from kiosk.schedule import Window

REPO = Path(__file__).parent.parent
_NO_ENVIRONMENT: Mapping[str, str] = {}


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a test's configuration goes; named as users name it, relative to the working directory."""
    monkeypatch.chdir(tmp_path)
    return Path("config.yaml")


def _problems(file: Path, content: str | bytes, environ: Mapping[str, str] = _NO_ENVIRONMENT) -> list[str]:
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError) as caught:
        load(file, environ)
    assert caught.value.exit_code == 78
    return str(caught.value).splitlines()


def _loaded(file: Path, content: str, environ: Mapping[str, str] = _NO_ENVIRONMENT) -> Config:
    file.write_text(content, encoding="utf-8")
    return load(file, environ)


# The file in the repository


def test_shipped_file_is_the_defaults() -> None:
    assert load(REPO / "config.yaml", _NO_ENVIRONMENT) == Config()


def test_shipped_file_holds_every_key_with_its_default() -> None:
    tree = yaml.safe_load((REPO / "config.yaml").read_text(encoding="utf-8"))
    assert list(tree) == list(Config.model_fields)
    assert tree == Config().model_dump(mode="json")


def test_commented_tls_section_of_the_shipped_file_is_valid(file: Path) -> None:
    text = (REPO / "config.yaml").read_text(encoding="utf-8").replace("  tls: null", "  #")
    config = _loaded(file, re.sub(r"(?m)^  # (?=tls:|  )", "  ", text))
    assert config.mqtt.tls is not None
    assert config.mqtt.tls.key_file == Path("/etc/kiosk/door-1.key")


def test_reference_page_is_up_to_date() -> None:
    script = REPO / "docs" / "generate_configuration.py"
    environ = {**os.environ, "PYTHONPATH": str(REPO)}
    done = subprocess.run([sys.executable, script, "--check"], env=environ, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_reference_page_holds_every_field() -> None:
    page = (REPO / "docs" / "configuration.md").read_text(encoding="utf-8")
    for path in field_guides():
        assert f"| `{'.'.join(path)}` |" in page


# What is taken


@pytest.mark.parametrize(
    "content", ["", "\n", "# nothing\n", "---\n", "mqtt:\n", "null\n", "\ufeff", "{}", "mqtt: {}\r\n"]
)
def test_empty_is_all_defaults(file: Path, content: str) -> None:
    assert _loaded(file, content) == Config()


def test_values_of_every_kind(file: Path) -> None:
    config = _loaded(
        file,
        """\
device: {site: "12", id: 'a.b-c_d', timezone: Asia/Seoul}
camera:
  source: rtsp://user:secret@cam.example:554/live?a=1#b
  rotate: 270
  loop: true
  open_timeout_s: 10
match: {threshold: 0.45, window_s: 1.5e0, margin: .1}
pad: {threshold: auto}
store: {path: ./kiosk.db}
mqtt:
  host: no
  tls: {ca_file: /etc/ca.pem}
  username: kiosk
  password_file: /run/secret
""",
    )
    assert config.device.site == "12"
    assert config.device.timezone == "Asia/Seoul"
    assert config.camera.source == "rtsp://user:secret@cam.example:554/live?a=1#b"
    assert (config.camera.rotate, config.camera.loop, config.camera.open_timeout_s) == (270, True, 10.0)
    assert (config.match.threshold, config.match.window_s, config.match.margin) == (0.45, 1.5, 0.1)
    assert config.store.path == Path("kiosk.db")
    # YAML 1.2: the Norwegian host is no boolean.
    assert config.mqtt.host == "no"
    assert config.mqtt.tls == TlsSection(ca_file=Path("/etc/ca.pem"))
    assert config.mqtt.password_file == Path("/run/secret")


def test_configuration_is_frozen_and_hides_logins(file: Path) -> None:
    config = _loaded(file, "camera: {source: 'http://u:hunter2@x/'}\nmqtt: {username: hunter3}\n")
    assert "hunter" not in repr(config)
    with pytest.raises(ValidationError):
        config.mqtt.port = 1


def test_environment_overrides_the_file(file: Path) -> None:
    config = _loaded(
        file,
        "mqtt: {port: 1884, username: somebody, tls: null}\n",
        {
            "KIOSK_MQTT__PORT": "1885",
            "KIOSK_MQTT__USERNAME": "",
            "KIOSK_MQTT__TLS__CA_FILE": "/etc/ca # 1.pem",
            "KIOSK_CAMERA__SOURCE": "2",
            "KIOSK_DEVICE__ID": "007",
            "KIOSK_MATCH__THRESHOLD": "auto",
            "KIOSK_MATCH__MARGIN": "0.2",
            "KIOSK_PAD__ENABLED": "false",
            "KIOSK_STORE__PATH": "/data/a: b.db",
            "KIOSK_CONFIG": "elsewhere.yaml",
            "KIOSK_BOOT_ID": "5f",
            "HOME": "/root",
        },
    )
    assert (config.mqtt.port, config.mqtt.username) == (1885, None)
    assert config.mqtt.tls == TlsSection(ca_file=Path("/etc/ca # 1.pem"))
    assert (config.camera.source, config.device.id) == (2, "007")
    assert (config.match.threshold, config.match.margin, config.pad.enabled) == ("auto", 0.2, False)
    assert config.store.path == Path("/data/a: b.db")


@pytest.mark.parametrize(("text", "expected"), [("null", None), ("", None), ("{}", TlsSection())])
def test_tls_from_the_environment(file: Path, text: str, expected: TlsSection | None) -> None:
    assert _loaded(file, "", {"KIOSK_MQTT__TLS": text}).mqtt.tls == expected


@pytest.mark.parametrize(
    "mqtt",
    [
        "host: localhost",
        "host: LocalHost.",
        "host: kiosk.localhost",
        "host: 127.0.0.1",
        "host: 127.8.9.10",
        "host: '::1'",
        "host: '::ffff:127.0.0.1'",
        "host: broker.example, tls: {}",
        "host: broker.example, allow_plaintext: true",
    ],
)
def test_a_broker_on_this_machine_or_with_tls_is_fine(file: Path, mqtt: str) -> None:
    assert broker_settings(_loaded(file, f"mqtt: {{{mqtt}}}\n")).host


@pytest.mark.parametrize(
    "host",
    [
        "broker.example",
        "192.168.1.5",
        "10.0.0.1",
        "::",
        "0.0.0.0",  # noqa: S104
        "fe80::1",
        "::ffff:10.0.0.1",
        "localhost.example",
        "notlocalhost",
        "127.1",
        "128.0.0.1",
        "2130706433",
    ],
)
def test_no_plaintext_to_another_machine(file: Path, host: str) -> None:
    """Whoever would connect is refused; the configuration itself is one that the store's commands can use."""
    config = _loaded(file, f"mqtt: {{host: '{host}'}}\n")
    with pytest.raises(ConfigError, match=r"^mqtt\.host: .* is another machine and TLS is off") as caught:
        broker_settings(config)
    assert "mqtt.tls" in str(caught.value)
    assert "mqtt.allow_plaintext" in str(caught.value)


def test_every_field_can_be_set_by_its_variable(file: Path) -> None:
    file.write_text("")
    for guide in field_guides().values():
        if guide.is_section and guide.default is not None:
            continue  # its fields are set one by one
        text = "" if guide.default is None else str(guide.default)
        environ = {guide.variable: text.lower() if isinstance(guide.default, bool) else text}
        config = load(file, environ)
        assert config == Config() or guide.path[1:2] == ("tls",), guide


def test_search_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("given", "variable"):
        Path(f"{name}.yaml").write_text(f"device: {{id: {name}}}\n")
    environ = {"KIOSK_CONFIG": "variable.yaml"}
    # /etc/kiosk/config.yaml may exist on a kiosk, but not on a machine that runs tests.
    assert load(None, _NO_ENVIRONMENT).device.id == "door-1"
    Path("config.yaml").write_text("device: {id: local}\n")
    assert load(None, _NO_ENVIRONMENT).device.id == "local"
    assert load(None, {"KIOSK_CONFIG": ""}).device.id == "local"
    assert load(None, environ).device.id == "variable"
    assert load(Path("given.yaml"), environ).device.id == "given"


# What is told


def test_all_problems_at_once_in_the_order_of_the_file(file: Path) -> None:
    content = """\
mqtt:
  prot: 1
  port: abc
  tls: {cert_file: a.pem}
  password_file: secret.txt
camra: {}
face: 5
match: {threshold: 3, margin: true, frames: 0}
device: {id: 12, site: "a b", timezone: Asia/Soul}
camera: {rotate: 45, source: true}
attendance: {mode: schedule}
"""
    environ = {
        "KIOSK_MATCH__FPIR": "2",
        "KIOSK_MQTT_PORT": "1",
        "KIOSK_MQTT": "1",
        "KIOSK_STORE__RETENTION_DAYS": "",
        "KIOSK_MQTT__HOSTNAME": "x",
    }
    assert _problems(file, content, environ) == [
        'config.yaml:2: mqtt.prot: unknown key; did you mean "port"?',
        "config.yaml:3: mqtt.port: must be a whole number from 1 to 65535, not text",
        "config.yaml:4: mqtt.tls.key_file: is needed with cert_file",
        "config.yaml:5: mqtt.password_file: needs username",
        'config.yaml:6: camra: unknown key; did you mean "camera"?',
        "config.yaml:7: face: must be a section, not 5",
        "config.yaml:8: match.threshold: must be auto or a number from -1 to 1, not 3",
        "config.yaml:8: match.margin: must be a number from 0 to 2, not true",
        "config.yaml:8: match.frames: must be a whole number from 1 to 100, not 0",
        "config.yaml:9: device.site: must be 1 to 64 letters, digits, dots, underscores or hyphens",
        (
            "config.yaml:9: device.id: must be 1 to 64 letters, digits, dots, underscores or hyphens, not 12; "
            "put it in quotes"
        ),
        'config.yaml:9: device.timezone: unknown time zone; did you mean "Asia/Seoul"?',
        "config.yaml:10: camera.source: must be a whole number from 0 to 255 or text, not true",
        "config.yaml:10: camera.rotate: must be one of 0, 90, 180, 270, not 45",
        (
            "config.yaml:11: attendance.schedule: is needed with mode schedule: windows like "
            '{days: mon-fri, from: "06:00", to: "10:00", event: check_in}'
        ),
        "KIOSK_MQTT: is a section; set its fields one by one, like KIOSK_MQTT__ENABLED",
        'KIOSK_MQTT_PORT: unknown variable; did you mean "KIOSK_MQTT__PORT"?',
        'KIOSK_MQTT__HOSTNAME: unknown variable; did you mean "KIOSK_MQTT__HOST"?',
        "KIOSK_MATCH__FPIR: must be a number from 0.000001 to 0.5, not 2",
        "KIOSK_STORE__RETENTION_DAYS: must be a whole number from 1 to 36500, not empty",
    ]


@pytest.mark.parametrize(
    ("content", "environ", "told"),
    [
        (
            "privacy: {unseen_days: 90}\n",
            {"KIOSK_STORE__RETENTION_DAYS": "60"},
            r"config\.yaml:1: privacy: unseen_days .* \(KIOSK_STORE__RETENTION_DAYS in the environment\)",
        ),
        (
            "privacy: {require_consent: true}\n",
            {"KIOSK_STORE__RETENTION_DAYS": "60", "KIOSK_PRIVACY__UNSEEN_DAYS": "90"},
            r"KIOSK_\w+: privacy: unseen_days \(90\) must be at least 14 less than store\.retention_days \(60\).*",
        ),
        (
            "store: {retention_days: 60}\n",
            {"KIOSK_PRIVACY__UNSEEN_DAYS": "90"},
            r"config\.yaml: privacy: unseen_days .* \(KIOSK_PRIVACY__UNSEEN_DAYS in the environment\)",
        ),
        (
            "mqtt: {port: 8883}\n",
            {"KIOSK_MQTT__TLS__CERT_FILE": "c"},
            r"config\.yaml:1: mqtt\.tls\.key_file: is needed with cert_file \(KIOSK_MQTT__TLS__CERT_FILE in the .*\)",
        ),
        (
            "mqtt: {username: door, password_file: p}\n",
            {"KIOSK_MQTT__USERNAME": ""},
            r"config\.yaml:1: mqtt\.password_file: needs username \(KIOSK_MQTT__USERNAME in the environment\)",
        ),
    ],
)
def test_a_rule_about_two_fields_names_the_variable(
    file: Path, content: str, environ: Mapping[str, str], told: str
) -> None:
    (problem,) = _problems(file, content, environ)
    assert re.fullmatch(told, problem), problem


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("mqtt: {port: true}", "not true"),
        ("mqtt: {port: 0}", "from 1 to 65535, not 0"),
        ("mqtt: {port: 1883.0}", "not 1883.0"),
        ("mqtt: {port: 01883}", "not text"),
        ("mqtt: {port: '1883'}", "not text"),
        ("mqtt: {port: 31:23}", "not text"),
        ("mqtt: {port: [1]}", "not a list"),
        ("mqtt: {host: mqtt://broker}", "must be a host name or IP address"),
        ("mqtt: {host: ''}", "must be a host name or IP address"),
        ("mqtt: {host:}", "must be a host name or IP address, not empty"),
        ("mqtt: {topic_root: kiosk/#}", "must be MQTT topic levels"),
        ("mqtt: {topic_root: /kiosk}", "must be MQTT topic levels"),
        ("mqtt: {tls: true}", "must be a section or null, not true"),
        ("mqtt: {tls: {key_file: a}}", "mqtt.tls.key_file: needs cert_file"),
        ("mqtt: {tls: {ca: a}}", 'mqtt.tls.ca: unknown key; did you mean "ca_file"?'),
        ("mqtt: [host]", "mqtt: must be a section, not a list"),
        ("mqtt: {home_assistant: yes}", "must be true or false, not text"),
        ("match: {window_s: 0}", "must be a number above 0 up to 60, not 0"),
        ("match: {window_s: .inf}", "not text"),
        ("match: {fpir: 1e999}", "not inf"),
        ("match: {threshold: Auto}", "must be auto or a number"),
        ("camera: {rotate: false}", "not false"),
        ("camera: {source: -1}", "not -1"),
        ("camera: {source: ''}", "must be a whole number from 0 to 255 or text"),
        ("camera: {fps: 99999999999999999999}", "not "),
        ("store: {path: ''}", "must be a path"),
        ("store: {path: 5}", "not 5; put it in quotes"),
        ('store: {path: "a\\0b"}', "control characters"),
        ("store: {snapshots: all}", "must be none"),
        ("device: {timezone: ../../etc/passwd}", "unknown time zone; write it like"),
        ("device: {timezone: ''}", "unknown time zone"),
        ("device: {id: 'a/b'}", "must be 1 to 64"),
        ('device: {id: "door\\n"}', "must be 1 to 64"),
        ("face: {detector: mtcnn}", "must be one of blazeface, haar"),
        (
            "face: {min_eye_distance_px: -1}",
            "face.min_eye_distance_px: must be auto or a number from 0 to 4096, not -1",
        ),
        ("face: {min_eye_distance_px: any}", "must be auto or a number from 0 to 4096"),
        ("face: {min_sharpness: 200}", "face.min_sharpness: must be auto or a number from 0 to 100, not 200"),
        ("face: {min_size_px: auto}", "face.min_size_px: must be a whole number from 0 to 4096"),
    ],
)
def test_wrong_value(file: Path, content: str, told: str) -> None:
    [problem] = _problems(file, content)
    assert problem.startswith("config.yaml:1: ")
    assert told in problem


def test_a_schedule(file: Path) -> None:
    content = """\
attendance:
  mode: schedule
  schedule:
    - {days: mon-fri, from: "06:00", to: "10:00", event: check_in}
    - from: 23:00
      to: "02:00"
      event: break
  outside: check_out
"""
    attendance = _loaded(file, content).attendance
    assert [section.window() for section in attendance.schedule] == [
        Window(frozenset(range(5)), 360, 600, "check_in"),
        Window(frozenset(range(7)), 1380, 120, "break"),
    ]
    assert attendance.outside == "check_out"
    variables = {
        "KIOSK_ATTENDANCE__MODE": "schedule",
        "KIOSK_ATTENDANCE__SCHEDULE": '[{from: "06:00", to: "24:00", event: check_in}]',
    }
    (window,) = _loaded(file, "", variables).attendance.schedule
    assert window.window() == Window(frozenset(range(7)), 360, 1440, "check_in")


def test_the_documented_schedule_is_one(file: Path) -> None:
    page = (REPO / "docs" / "attendance.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL)
    assert len(_loaded(file, example).attendance.schedule) == 4


def test_every_mistake_in_a_schedule_has_its_line(file: Path) -> None:
    content = """\
attendance:
  mode: schedule
  schedule:
    - {days: mon-fry, from: "6:00", to: "10:00", event: chek_in, too: 1}
    - from: "06:00"
      days: mon,tue
    - 5
    - {from: "06:00", to: "06:00", event: break}
    - {days: mon, tue, from: 600, to: "10:00", event: break}
"""
    days = "must be days like mon-fri or sat,sun (mon tue wed thu fri sat sun)"
    assert _problems(file, content) == [
        f"config.yaml:4: attendance.schedule[1].days: {days}",
        "config.yaml:4: attendance.schedule[1].from: must be a time of day from 00:00 to 23:59",
        "config.yaml:4: attendance.schedule[1].event: must be one of check_in, check_out, break",
        'config.yaml:4: attendance.schedule[1].too: unknown key; did you mean "to"?',
        "config.yaml:5: attendance.schedule[2].to: is needed: a time of day from 00:00 to 24:00",
        "config.yaml:5: attendance.schedule[2].event: is needed: one of check_in, check_out, break",
        "config.yaml:7: attendance.schedule[3]: must be a section, not 5",
        'config.yaml:8: attendance.schedule[4].to: is the same as from; a whole day is from "00:00" to "24:00"',
        (
            "config.yaml:9: attendance.schedule[5].from: must be a time of day from 00:00 to 23:59, not 600; "
            "put it in quotes"
        ),
        "config.yaml:9: attendance.schedule[5].tue: unknown key; known are days, from, to, event",
    ]


def test_windows_that_overlap_are_all_told(file: Path) -> None:
    content = """\
attendance:
  mode: schedule
  schedule:
    - {days: mon-fri, from: "06:00", to: "10:00", event: check_in}
    - {days: "fri,sat", from: "09:30", to: "11:00", event: break}
    - {days: sun, from: "23:00", to: "06:30", event: check_out}
"""
    first = "overlaps window 1 (mon,tue,wed,thu,fri 06:00-10:00) on"
    assert _problems(file, content) == [
        f"config.yaml:5: attendance.schedule[2]: {first} fri 09:30",
        f"config.yaml:6: attendance.schedule[3]: {first} mon 06:00",
    ]


@pytest.mark.parametrize(
    ("attendance", "variable", "told"),
    [
        ("{schedule: 5}", None, "config.yaml:1: attendance.schedule: must be a list of up to 50 windows, not 5"),
        (
            '{schedule: [{from: "06:00", to: "07:00", event: break}]}',
            None,
            "has windows, but attendance.mode is check_in: set it to schedule, or delete the windows",
        ),
        (
            "{schedule: [" + '{from: "06:00", to: "07:00", event: break}, ' * 51 + "]}",
            None,
            "a list of up to 50 windows",
        ),
        ("{mode: alternate}", "[{", "KIOSK_ATTENDANCE__SCHEDULE: must be a list of up to 50 windows, like [{"),
        ("{mode: alternate}", "[]\nmqtt: {}", "KIOSK_ATTENDANCE__SCHEDULE: must be a list of up to 50 windows, like"),
        (
            "{mode: schedule}",
            '[{to: "07:00", event: break}]',
            "KIOSK_ATTENDANCE__SCHEDULE: attendance.schedule[1].from: is needed: a time of day from 00:00 to 23:59",
        ),
    ],
)
def test_no_schedule(file: Path, attendance: str, variable: str | None, told: str) -> None:
    environ = {} if variable is None else {"KIOSK_ATTENDANCE__SCHEDULE": variable}
    [problem] = _problems(file, f"attendance: {attendance}\n", environ)
    assert told in problem
    assert "\n" not in problem


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("- mqtt", 'config.yaml:1: must be sections of "key: value" lines, not a list'),
        ("\nmqtt", 'config.yaml:2: must be sections of "key: value" lines, not a single value'),
        ("mqtt:\n\tport: 1\n", "config.yaml:2: a tab indents this line; use spaces"),
        ("mqtt: {port: 1}\nmqtt: {port: 1}\n", "config.yaml:2: mqtt: is set twice, first in line 1; delete one"),
        ("mqtt:\n  port: 1\n  port: 2\n", "config.yaml:3: mqtt.port: is set twice, first in line 2; delete one"),
        ("---\nmqtt: {}\n---\nface: {}\n", "config.yaml:3: a second document (---) begins here"),
        ("mqtt: &a {port: 1}\n", "config.yaml:1: anchors and aliases"),
        ("mqtt: {host: *a}\n", "config.yaml:1: anchors and aliases"),
        ("mqtt: {host: !!python/object/apply:os.system [id]}\n", "config.yaml:1: tags (!) are not supported"),
        ("mqtt: {<<: {port: 1}}\n", "config.yaml:1: mqtt.<<: unknown key"),
        ("? {a: b}\n: 1\n", "config.yaml:1: a key must be a single word"),
        ("mqtt: {host: 'x\n", "config.yaml:2: no valid YAML"),
        ("mqtt: {port: 1\nface: x: y", "config.yaml:2: no valid YAML"),
        ("mqtt: @x", "config.yaml:1: no valid YAML"),
        ("%YAML 9.9\n---\n", "config.yaml:1: no valid YAML"),
        (b"\n\nmqtt: \0", "config.yaml:3: holds a control character"),
        (b"mqtt: {}\n\xff", "config.yaml:2: not valid UTF-8"),
        ("mqtt: {}".encode("utf-16"), "config.yaml:1: not valid UTF-8"),
        ("# " + "x" * 70_000, "config.yaml: larger than 64 KiB"),
        ("[" * 60_000, "config.yaml:1: must be sections"),
        ("{a: " * 16_000, "config.yaml:1: nested deeper than 8 levels"),
        ("mqtt: " + "[" * 60_000, "config.yaml:1: nested deeper than 8 levels"),
        ("a" * 60_000 + ": 1", "config.yaml:1: must be sections"),
    ],
)
def test_no_configuration_at_all(file: Path, content: str | bytes, problem: str) -> None:
    started_s = time.monotonic()
    [told] = _problems(file, content)
    assert told.startswith(problem)
    assert len(told) < 200
    assert time.monotonic() - started_s < 2


def test_a_flood_of_problems_is_cut_short(file: Path) -> None:
    started_s = time.process_time()
    problems = _problems(file, "".join(f"k{n}: 1\n" for n in range(6000)) + "k1: 1\n" * 300)
    assert len(problems) < 120
    assert "config.yaml: and 5950 more problems" in problems
    assert time.process_time() - started_s < 2


def test_alias_bomb(file: Path) -> None:
    content = "a: &a [x, x]\n" + "".join(
        f"{c}: &{c} [{', '.join(['*' + chr(ord(c) - 1)] * 9)}]\n" for c in "bcdefghijk"
    )
    [told] = _problems(file, content)
    assert told.startswith("config.yaml:1: anchors and aliases")


def test_long_and_strange_keys_stay_one_short_line(file: Path) -> None:
    for told in _problems(file, '"a\\nb": 1\n"\\e[31m": 2\n? ' + "k" * 30_000 + "\n: 3\n"):
        assert told.startswith("config.yaml:")
        assert told.isprintable()
        assert len(told) < 200


def test_unknown_variable_beside_an_unreadable_file(file: Path) -> None:
    problems = _problems(file, "mqtt: {", {"KIOSK_MQTT__PROT": "1"})
    assert [problem.split(":")[0] for problem in problems] == ["config.yaml", "KIOSK_MQTT__PROT"]


def test_text_is_never_repeated(file: Path) -> None:
    content = """\
mqtt: {password: hunter2, port: hunter2, username: [hunter2], host: "hunter2 hunter2", tls: hunter2}
camera: {source: ["rtsp://u:hunter2@x"], pace: hunter2}
device: {id: "hunter2!", timezone: hunter2}
"""
    environ = {"KIOSK_MQTT__PASSWORD": "hunter2", "KIOSK_MATCH__MARGIN": "hunter2"}
    told = "\n".join(_problems(file, content, environ))
    assert len(told.splitlines()) == 11
    assert "hunter2" not in told
    assert 'mqtt.password: unknown key; did you mean "password_file"?' in told


def test_files_that_are_none(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    for name, told in (
        ("missing.yaml", "no such file; check --config or $KIOSK_CONFIG"),
        ("", "not a regular file"),
        ("pipe", "not a regular file"),
        ("loop", "no such file"),
        ("x" * 300, "cannot be read: File name too long"),
    ):
        for path, environ in ((tmp_path / name, {}), (None, {"KIOSK_CONFIG": str(tmp_path / name)})):
            with pytest.raises(ConfigError, match=re.escape(f"{tmp_path / name}: {told}")):
                load(path, environ)


def test_dangling_local_file_is_told(file: Path) -> None:
    file.symlink_to("gone.yaml")
    with pytest.raises(ConfigError, match=r"config\.yaml: no such file"):
        load(None, _NO_ENVIRONMENT)


def test_file_of_somebody_else(file: Path, unprivileged: Callable[[], None]) -> None:
    file.write_text("")
    file.chmod(0)
    unprivileged()
    with pytest.raises(ConfigError, match=r"config\.yaml: may not be read by this user") as caught:
        load(file, _NO_ENVIRONMENT)
    assert caught.value.exit_code == 77


def test_folder_that_may_not_be_entered_holds_no_local_file(
    file: Path, monkeypatch: pytest.MonkeyPatch, unprivileged: Callable[[], None]
) -> None:
    """`sudo -u kiosk kiosk check`, typed in somebody's home: what the machine has counts."""
    monkeypatch.setattr("kiosk.config._loading._SYSTEM_FILE", Path("/nowhere/config.yaml"))
    file.write_text("device: {id: local}")
    file.absolute().parent.chmod(0)
    unprivileged()
    assert load(None, _NO_ENVIRONMENT).device.id == "door-1"


@pytest.fixture
def unprivileged() -> Iterator[Callable[[], None]]:
    """Root may read everything: be nobody from the call on."""
    before = os.geteuid()
    yield lambda: os.seteuid(65534) if before == 0 else None
    os.seteuid(before)


_WORDS = st.sampled_from(
    [
        *(name for path in field_guides() for name in path),
        *(
            "0",
            "1",
            "true",
            "null",
            "auto",
            "~",
            ".5",
            "1e3",
            "no",
            "&a",
            "*a",
            "!x",
            "|",
            ">",
            "<<",
            "'",
            '"',
            "%",
            "@",
        ),
    ]
)
_PUNCTUATION = st.sampled_from([": ", "\n", "\n  ", "- ", ", ", "{", "}", "[", "]", " ", "#", "\t", "? ", "---\n"])


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.one_of(
        st.binary(max_size=200),
        st.text(st.characters(exclude_categories=["Cs"]), max_size=200).map(str.encode),
        st.lists(st.one_of(_WORDS, _PUNCTUATION), max_size=40).map(lambda parts: "".join(parts).encode()),
    )
)
def test_any_file_is_a_configuration_or_lines_of_problems(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    try:
        load(file, _NO_ENVIRONMENT)
    except ConfigError as error:
        lines = str(error).split("\n")
        assert all(re.match(r"config\.yaml(:\d+)?: ", line) and line.isprintable() for line in lines)


def test_importing_it_is_cheap() -> None:
    program = "import sys, kiosk.config; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=REPO, capture_output=True, text=True, check=True)
    modules = set(done.stdout.split())
    assert not modules & {"cv2", "numpy", "sqlite_utils", "paho", "ai_edge_litert", "click"}
