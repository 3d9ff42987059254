"""The second way in as its users meet it: codes by command, a reader on a real terminal, ``kiosk run`` at the door."""

from __future__ import annotations

import io
import json
import re
import signal
import socket
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from broker import Mosquitto, Subscriber, wait_for
from command_line import Kiosk
from runner import assert_one_line_error, dump, run_in_process
from test_code_reader import Device

from kiosk.biometrics import SubjectId
from kiosk.clip import Scene, write_clip
from kiosk.opencv import cv2
from kiosk.store import AttendanceRow, RejectionRow, Store

pytestmark = pytest.mark.stories

CARD = "04A1B2C3D4"


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    device = Device(tmp_path / "reader")
    device.plug()
    yield device
    if device.master >= 0:
        device.unplug()


@pytest.fixture(scope="module")
def empty_room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "empty.avi"
    write_clip(path, [Scene(2.0)])
    return path


@pytest.fixture
def home(kiosk: Kiosk, empty_room: Path, device: Device) -> Kiosk:
    """Ana, without a face and with a code, before a kiosk with a reader."""
    kiosk.configure(
        camera={"source": str(empty_room), "loop": True},
        match={"refractory_s": 2},
        code={"reader": str(device.path)},
    )
    with Store.open(kiosk.store) as store:
        store.enroll(SubjectId("ana"), [], name="Canary Ana")
    return kiosk


def give_pin(kiosk: Kiosk, subject_id: str = "ana") -> str:
    result = kiosk("subjects", "code", subject_id)
    assert result.returncode == 0, result.stderr
    assert re.fullmatch(r"\d{3}-\d{6}\n", result.stdout)
    return result.stdout.strip()


@contextmanager
def at_the_door(kiosk: Kiosk, device: Device, env: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    """``kiosk run``, once it listens to the reader; what it logged is shown with a failure."""
    process = kiosk.start("run", "-v", env=env)
    try:
        # The kiosk has set up the terminal when it shows nothing that is typed.
        wait_for(lambda: _listens(device), 60, what="the kiosk to open the reader")
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            out, err = process.communicate(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
        sys.stderr.write(err)
        process.log = err  # type: ignore[attr-defined]
    assert (process.returncode, out) == (0, "")
    assert "Traceback" not in err


def _listens(device: Device) -> bool:
    return not termios.tcgetattr(device.master)[3] & termios.ECHO


def wait_for_rows(kiosk: Kiosk, find: Callable[[Store], list[Any]], count: int) -> list[Any]:
    with Store.open(kiosk.store, writable=False) as store:
        wait_for(lambda: len(find(store)) >= count, 20, what=f"{count} rows")
        return find(store)


def attendance(store: Store) -> list[AttendanceRow]:
    return store.attendance()


def rejections(store: Store) -> list[RejectionRow]:
    return store.rejections()


def test_a_pin_at_the_door_is_a_check_in_like_a_face(home: Kiosk, device: Device, tmp_path: Path, repo: Path) -> None:
    pin = give_pin(home)
    result = home("subjects", "code", "ana", "--card", stdin=f"{CARD}\n")
    assert (result.returncode, result.stderr) == (0, "")
    with Mosquitto(tmp_path) as broker, Subscriber(broker.port) as subscriber:
        key, public = tmp_path / "signing.key", tmp_path / "signing.pub"
        public.write_text(home("events", "keygen", key).stdout, encoding="ascii")
        home.configure(
            mqtt={
                "enabled": True,
                "host": "127.0.0.1",
                "port": broker.port,
                "rejected_events": True,
                "sign_key_file": str(key),
            },
            attendance={"mode": "alternate"},
        )
        with at_the_door(home, device) as process:
            device.send(f"{pin}\n".encode())
            wait_for_rows(home, attendance, 1)
            # Within the refractory period nothing is recorded, by whatever way.
            device.send(f"{CARD}\r\n".encode())
            time.sleep(2.5)
            device.send(f"{CARD}\r\n".encode())
            wait_for_rows(home, attendance, 2)
            device.send(f"{pin[:-6]}000000\nnobodys-badge\n".encode())
            wait_for_rows(home, rejections, 2)
            messages = [message.json() for message in subscriber.wait_for("/event/attendance", 2)]
            refused = [message.json() for message in subscriber.wait_for("/event/rejected", 2)]
            info = subscriber.wait_for("/info")[0].json()
        log = process.log  # type: ignore[attr-defined]
    assert "code" in info["capabilities"]
    schemas = repo / "docs" / "schemas"
    for name, documents in (("attendance", messages), ("rejected", refused)):
        schema = json.loads((schemas / f"{name}.schema.json").read_text(encoding="utf-8"))
        for document in documents:
            jsonschema.validate(document, schema)
    assert [(event["seq"], event["event_type"], event["method"]) for event in messages] == [
        (1, "check_in", "code"),
        (2, "check_out", "code"),
    ]
    assert [(event["subject"], event["match"], event["pad"]["checked"]) for event in messages] == [
        ({"id": "ana"}, None, False)
    ] * 2
    assert [(event["event_type"], event["reason"]) for event in refused] == [("code", "code_wrong")] * 2
    lines = "".join(json.dumps(event) + "\n" for event in [*messages, *refused])
    verified = home("events", "verify", "--public-key", public, stdin=lines)
    assert verified.stdout.startswith("4 events with a good signature, numbers 1 to 2, 2 of them rejected;")
    assert verified.returncode == 0
    secret = pin.partition("-")[2]
    for text in (log, json.dumps([messages, refused]), str(dump(home.store))):
        assert secret not in text
        assert CARD not in text
    assert "Canary" not in log
    assert "check_in of ana (event 1, by code)" in log

    table = home("events").stdout
    assert re.search(r"check_in +ana +code +sent\n", table)
    listed = json.loads(home("events", "--json").stdout)["events"]
    assert [(event["method"], event["score"]) for event in listed] == [("code", None)] * 2
    rejected = json.loads(home("events", "--rejected", "--json").stdout)["events"]
    assert [(event["event_type"], event["reason"], event["score"]) for event in rejected] == [
        ("code", "code_wrong", None)
    ] * 2
    why = home("why", "1")
    assert "accepted: by the subject's own PIN; no face was compared\n" in why.stdout
    why = home("why", rejected[1]["event_id"])
    assert "not accepted: this badge is nobody's" in why.stdout
    assert "what to do: " in why.stdout
    document = json.loads(home("why", "2", "--json").stdout)
    assert (document["method"], document["code"], document["decision"]) == ("code", "badge", "identified")
    assert home("why", "1", "--plot", "out.png").returncode == 65


def test_a_reader_that_is_unplugged_is_told_everywhere_and_comes_back(
    home: Kiosk, device: Device, tmp_path: Path
) -> None:
    pin = give_pin(home)
    with (
        Mosquitto(tmp_path) as broker,
        Subscriber(broker.port) as subscriber,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd,
    ):
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(15)
        home.configure(mqtt={"enabled": True, "host": "127.0.0.1", "port": broker.port})

        def told(words: bytes) -> bool:
            while words not in (message := systemd.recv(4096)):
                assert message
            return True

        def problems() -> set[str]:
            return {problem["part"] for problem in subscriber.on("/health")[-1].json()["problems"]}

        with at_the_door(home, device, {"NOTIFY_SOCKET": str(tmp_path / "notify")}) as process:
            subscriber.wait_for("/health")
            assert "reader" not in problems()
            device.unplug()
            assert told(b"STATUS=watching; 0 subjects")
            assert told(b"; no codes: ")
            wait_for(lambda: "reader" in problems(), 20, what="the problem in health")
            device.plug()
            wait_for(lambda: _listens(device), 20, what="the kiosk to open the reader again")
            wait_for(lambda: "reader" not in problems(), 20, what="the problem to go")
            device.send(f"{pin}\n".encode())
            wait_for_rows(home, attendance, 1)
    log = process.log  # type: ignore[attr-defined]
    assert re.search(r"no codes: .*/reader: ", log)
    assert "the code reader is back" in log


def test_locks_outlive_a_kill(home: Kiosk, device: Device) -> None:
    pin = give_pin(home)
    process = home.start("run")
    try:
        wait_for(lambda: _listens(device), 60, what="the kiosk to open the reader")
        device.send(f"{pin[:-6]}000000\n".encode() * 5)
        wait_for_rows(home, rejections, 5)
    finally:
        process.kill()
        process.communicate()
    device.unplug()
    device.plug()
    with at_the_door(home, device):
        device.send(f"{pin}\n".encode())
        rows = wait_for_rows(home, rejections, 6)
    assert [row.reason for row in rows] == ["code_wrong"] * 5 + ["code_locked"]
    assert not wait_for_rows(home, attendance, 0)


def test_a_running_kiosk_knows_codes_at_once_and_forgets_them(home: Kiosk, device: Device) -> None:
    with at_the_door(home, device):
        pin = give_pin(home)
        device.send(f"{pin}\n".encode())
        wait_for_rows(home, attendance, 1)
        assert home("subjects", "remove", "ana", "--yes").returncode == 0
        device.send(f"{pin}\n".encode())
        wait_for_rows(home, rejections, 1)


def test_noise_from_the_device_does_no_harm(home: Kiosk, device: Device) -> None:
    pin = give_pin(home)
    with at_the_door(home, device):
        device.send(b"\0\xff\x80" * 1000)
        device.send(b"\n\n\x1b[A\x03\x04\n")
        device.send(f"{pin}\n".encode())
        wait_for_rows(home, attendance, 1)


def test_a_badge_before_the_camera_is_a_check_in(home: Kiosk, tmp_path: Path) -> None:
    result = home("subjects", "code", "ana", "--qr", tmp_path / "badge.png")
    assert result.returncode == 0, result.stderr
    frames = tmp_path / "frames"
    frames.mkdir()
    badge = cv2.imread(str(tmp_path / "badge.png"))
    assert badge is not None
    picture = np.full((720, 1280, 3), 110, np.uint8)
    picture[200:520, 500:820] = cv2.resize(badge, (320, 320), interpolation=cv2.INTER_AREA)
    for number in range(10):
        cv2.imwrite(str(frames / f"{number}.png"), picture)
    home.configure(camera={"source": str(frames)}, code={"reader": None, "camera": True})
    process = home.start("run")
    try:
        (row,) = wait_for_rows(home, attendance, 1)
    finally:
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=15)
    assert (row.subject_id, row.evidence["code"]) == ("ana", "badge")
    assert (process.returncode, "Traceback" in err) == (0, False)


# --- the commands


def test_adding_somebody_without_a_face(kiosk: Kiosk) -> None:
    kiosk.configure(privacy={"require_consent": True})
    result = kiosk("subjects", "add", "E7")
    assert (result.returncode, result.stderr) == (0, "")
    (subject,) = json.loads(kiosk("subjects", "list", "--json").stdout)["subjects"]
    assert (subject["subject_id"], subject["name"], subject["templates"], subject["codes"]) == ("E7", "E7", 0, [])
    again = kiosk("subjects", "add", "E7", "--name", "Other")
    assert again.returncode == 65
    assert "is there already" in assert_one_line_error(again.stderr)
    assert kiosk("subjects", "add", "no/id").returncode == 65


def test_lists_say_who_has_a_code_and_never_which(home: Kiosk) -> None:
    pin = give_pin(home)
    home("subjects", "code", "ana", "--card", stdin=CARD)
    for arguments in (("list",), ("show", "ana"), ("show", "ana", "--json")):
        shown = home("subjects", *arguments).stdout
        assert pin[:3] in shown
        assert pin[-6:] not in shown
        assert CARD not in shown
        assert "badge" in shown
    report = json.loads(home("privacy", "report", "--subject", "ana", "--json").stdout)
    assert [code["kind"] for code in report["codes"]] == ["badge", "pin"]
    removed = home("subjects", "code", "ana", "--remove")
    assert (removed.returncode, removed.stdout) == (0, "ana: badge and pin removed\n")
    assert json.loads(home("subjects", "show", "ana", "--json").stdout)["codes"] == []


@pytest.mark.parametrize(
    ("arguments", "settings", "told"),
    [
        ((), {}, "set code.reader to a keypad or card reader"),
        ((), {"camera": True}, "set code.reader"),
        (("--card",), {"camera": True}, "set code.reader"),
        (("--qr", "badge.svg"), {}, "set code.camera to true, or code.reader to a scanner"),
        (("--qr", "badge.svg"), {"camera": True}, None),
        (("--qr", "badge.svg"), {"reader": "/dev/ttyACM0"}, None),
        (("--card",), {"reader": "/dev/ttyACM0"}, None),
    ],
)
def test_a_code_that_can_be_entered_nowhere_is_made_and_says_so(
    kiosk: Kiosk, arguments: tuple[str, ...], settings: Mapping[str, object], told: str | None
) -> None:
    kiosk("subjects", "add", "ana")
    kiosk.configure(code=settings)
    result = kiosk("subjects", "code", "ana", *arguments, stdin=CARD)
    assert result.returncode == 0
    notes = [line for line in result.stderr.splitlines() if line.startswith("note:")]
    assert len(notes) == (told is not None)
    assert told is None or told in notes[0]


@pytest.mark.parametrize("name", ["badge.svg", "badge.png"])
def test_a_badge_can_be_read_and_its_token_is_random(home: Kiosk, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    result = home("subjects", "code", "ana", "--qr", path)
    assert (result.returncode, result.stderr) == (0, "")
    assert path.stat().st_mode & 0o777 == 0o600
    if path.suffix == ".png":
        token, _, _ = cv2.QRCodeDetector().detectAndDecode(cv2.imread(str(path)))  # type: ignore[arg-type]
        assert re.fullmatch(r"[0-9a-f]{32}", token)
        assert token not in str(dump(home.store))
    again = home("subjects", "code", "ana", "--qr", path)
    assert again.returncode == 74
    assert "is there already" in assert_one_line_error(again.stderr)


@pytest.mark.parametrize(
    ("arguments", "stdin", "exit_code", "words"),
    [
        (("nobody",), "", 65, "nobody is enrolled under this id"),
        (("ana", "--card"), "", 65, "a card's id is 8 to 128"),
        (("ana", "--card"), "short\n", 65, "a card's id is 8 to 128"),
        (("ana", "--card"), "104-482913\n", 65, "not of a PIN's form"),
        (("ana", "--card"), "\0" * 4000, 65, "a card's id is 8 to 128"),
        (("ana", "--card", "--remove"), "", 64, "only one of"),
        (("ana", "--qr", "badge.gif"), "", 64, "must end in .svg or .png"),
        (("ana", "--qr", "no/folder/badge.png"), "", 74, "cannot be written"),
        (("ana", "--remove"), "", 65, "has no code"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    home: Kiosk,
    arguments: tuple[str, ...],
    stdin: str,
    exit_code: int,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = dump(home.store)
    monkeypatch.setenv("KIOSK_CONFIG", str(home.config))
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
    assert run_in_process("subjects", "code", *arguments) == exit_code
    assert words in assert_one_line_error(capsys.readouterr().err)
    assert dump(home.store) == before


def test_check_tries_the_reader(home: Kiosk, device: Device) -> None:
    def finding() -> dict[str, str]:
        checks = json.loads(home("check", "--json").stdout)["checks"]
        found: dict[str, str] = next(check for check in checks if check["name"] == "code")
        return found

    assert "nobody has a code" in finding()["message"]
    give_pin(home)
    assert finding() == {"name": "code", "status": "ok", "message": f"{device.path} opens; 1 code"}
    device.unplug()
    assert finding()["status"] == "fail"
    device.plug()
