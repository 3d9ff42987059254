"""``kiosk demo``: broker, people, camera clip, daemon and subscriber, all real, all in one temporary folder."""

from __future__ import annotations

import contextlib
import getpass
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import click
import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from kiosk.biometrics import Box
from kiosk.bundle import BUILT_IN_BUNDLE
from kiosk.clip import Person, Scene, Walk, write_clip
from kiosk.errors import BrokerError, KioskError, UnavailableError
from kiosk.photo import read_photo

SAMPLES = Path(__file__).parent / "data" / "samples"

# Subject id, name, the photo that is enrolled. The clip shows other photos of them.
_ENROLLED = (("obama", "Barack Obama", "obama.jpg"), ("biden", "Joe Biden", "biden_portrait.jpg"))
# Visits of the clip that must lead to a check-in: each comes alone, then both together.
_EXPECTED = Counter({"obama": 2, "biden": 2})

_BROKER_START_S = 10.0
_COMMAND_LIMIT_S = 120.0
_LAST_MESSAGE_S = 5.0

_IOTCORE_CONFIG = """\
id = 0

[router]
id = 0
max_connections = 16
max_outgoing_packet_count = 200
max_segment_size = 1048576
max_segment_count = 4

[v5.1]
name = "demo"
listen = "127.0.0.1:{port}"
next_connection_delay_ms = 1

[v5.1.connections]
connection_timeout_ms = 5000
max_payload_size = 65536
max_inflight_count = 100
dynamic_filters = true
"""

# Ends by itself when our end of its stdin closes: nothing stays behind, however the demo ends.
_IOTCORE_PROGRAM = """\
import os, sys, threading
from iotcore import Broker
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
Broker(config_path=sys.argv[1]).run_forever()
"""

# The demo's refractory period is short, so that the second visits within half a minute count.
_KIOSK_CONFIG = """\
device: {{site: demo, id: door-1}}
camera: {{source: {clip}, pace: fast}}
model:  {{bundle: {bundle}}}
match:  {{refractory_s: 5}}
store:  {{path: {store}}}
mqtt:   {{host: 127.0.0.1, port: {port}}}
"""


class DemoError(KioskError):
    """The demo ran, and what it showed is not what it should."""

    exit_code = 70


def run_demo(keep: Path | None, patience: float = 1.0) -> None:
    """Run the whole demo; JSON lines on stdout, the story on stderr.

    ``keep``: the folder to work in and leave behind; None for a temporary one. ``patience``: every wait is so many
    times as long as usual.

    Raises:
        UnavailableError: no broker can be started.
        DemoError: the check-ins are not the expected ones, or a command does not end.
    """
    started_s = time.monotonic()
    with contextlib.ExitStack() as stack:
        folder = _work_folder(stack, keep)
        _say(f"working in {folder}{'' if keep else ' (removed at the end)'}")
        port = stack.enter_context(_broker(folder, _BROKER_START_S * patience))
        config_path = _write_config(folder, port)
        for subject_id, name, photo in _ENROLLED:
            _kiosk(config_path, patience, "enroll", subject_id, "--name", name, str(SAMPLES / photo))
            _say(f"enrolled {subject_id} ({name}) from {photo}")
        write_scenes(folder / "clip.avi")
        _say("made a clip from other photos of them, with a stranger among them; starting `kiosk run` on it")
        check_ins = stack.enter_context(_Subscriber(port, _BROKER_START_S * patience))
        _kiosk(config_path, patience, "run")
        check_ins.wait_for(_EXPECTED.total(), _LAST_MESSAGE_S * patience)
        _judge(check_ins.subjects)
    _say(f"done in {time.monotonic() - started_s:.0f} s")


def _judge(subjects: Counter[str]) -> None:
    stranger = sum(count for subject, count in subjects.items() if subject not in _EXPECTED)
    told = ", ".join(f"{subject} {subjects[subject]}" for subject in _EXPECTED)
    _say(f"{subjects.total()} check-ins ({told}); stranger: {stranger or 'none'}")
    if subjects != _EXPECTED:
        wanted = ", ".join(f"{subject} {count}" for subject, count in _EXPECTED.items())
        raise DemoError(f"the demo's check-ins are {told}, expected were {wanted}; please report it")


def write_scenes(path: Path) -> None:
    obama, obama_again = _person("obama2.jpg", (115, 181, 181)), _person("obama3.jpg", (321, 172, 134))
    biden, stranger = _person("biden.jpg", (275, 173, 189)), _person("collins.jpg", (178, 81, 94))
    nobody = Scene(1.5)
    write_clip(
        path,
        [
            Scene(0.5),
            Scene(4.0, (Walk(obama, x=(0.15, 0.55), face_px=(75, 130), light=(0.6, 1.0)),)),
            nobody,
            Scene(4.0, (Walk(stranger, x=(0.8, 0.45), y=(0.5, 0.4), face_px=(70, 95), light=(0.9, 1.1)),)),
            nobody,
            Scene(4.0, (Walk(biden, x=(0.85, 0.5), face_px=(80, 140), light=(1.1, 0.7)),)),
            nobody,
            Scene(
                4.5,
                (
                    Walk(obama_again, x=(0.2, 0.3), face_px=(80, 110), light=(0.8, 1.0)),
                    Walk(biden, x=(0.78, 0.7), y=(0.5, 0.42), face_px=(85, 115), light=(1.0, 0.8)),
                ),
            ),
            Scene(1.0),
        ],
    )


def _person(photo: str, face: tuple[int, int, int]) -> Person:
    x, y, side = face
    return Person(read_photo(SAMPLES / photo), Box(x, y, side, side))


def _work_folder(stack: contextlib.ExitStack, keep: Path | None) -> Path:
    if keep is None:
        return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kiosk-demo-")))
    keep.mkdir(parents=True, exist_ok=True)
    # A store of an earlier demo would hold its subjects already.
    return Path(tempfile.mkdtemp(prefix="demo-", dir=keep))


def _write_config(folder: Path, port: int) -> Path:
    path = folder / "config.yaml"
    path.write_text(
        _KIOSK_CONFIG.format(
            clip=json.dumps(str(folder / "clip.avi")),
            store=json.dumps(str(folder / "kiosk.db")),
            bundle=BUILT_IN_BUNDLE,
            port=port,
        ),
        encoding="utf-8",
    )
    return path


def _kiosk(config_path: Path, patience: float, *arguments: str) -> None:
    """Run a kiosk command as a user would; its stdout must not mix with our JSON lines."""
    limit_s = _COMMAND_LIMIT_S * patience
    # What the caller's environment sets for a real kiosk is not meant for the demo.
    environ = {key: value for key, value in os.environ.items() if not key.startswith("KIOSK_")}
    command = [sys.executable, "-m", "kiosk", *arguments, "--config", str(config_path)]
    with subprocess.Popen(command, stdout=sys.stderr.fileno(), env=environ) as process:  # noqa: S603 - our own program
        try:
            code = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            process.terminate()
            raise DemoError(
                f"`kiosk {arguments[0]}` took longer than {limit_s:.0f} s; on a slow machine: kiosk demo --patience "
                f"{patience * 10:g}"
            ) from None
        except BaseException:
            process.terminate()
            raise
    if code:
        raise DemoError(f"`kiosk {arguments[0]}` failed with exit code {code} (its message is above)")


@contextlib.contextmanager
def _broker(folder: Path, start_s: float) -> Iterator[int]:
    """An MQTT 5 broker on a free port of 127.0.0.1, ended with the demo."""
    port = _free_port()
    mosquitto = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
    if importlib.util.find_spec("iotcore") is not None:
        config = folder / "broker.toml"
        config.write_text(_IOTCORE_CONFIG.format(port=port), encoding="utf-8")
        command, name = [sys.executable, "-c", _IOTCORE_PROGRAM, str(config)], "iotcore"
    elif mosquitto is not None:
        config = folder / "mosquitto.conf"
        config.write_text(
            f"listener {port} 127.0.0.1\nallow_anonymous true\nuser {getpass.getuser()}\n", encoding="utf-8"
        )
        command, name = [mosquitto, "-c", str(config)], "mosquitto"
    else:
        raise UnavailableError("no MQTT broker for the demo: pip install 'attendance-kiosk[demo]' or install mosquitto")
    with (folder / "broker.log").open("wb") as log_file:
        process = subprocess.Popen(  # noqa: S603 - one of the two programs named above
            command, stdin=subprocess.PIPE, stdout=log_file, stderr=log_file
        )
    try:
        _await_port(process, port, folder / "broker.log", start_s)
        _say(f"MQTT 5 broker ({name}) on 127.0.0.1:{port}")
        yield port
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await_port(process: subprocess.Popen[bytes], port: int, log_path: Path, start_s: float) -> None:
    deadline_s = time.monotonic() + start_s
    while time.monotonic() < deadline_s and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    said = log_path.read_text(encoding="utf-8", errors="replace").strip().rsplit("\n", 1)[-1]
    raise BrokerError(f"the demo's broker did not start on 127.0.0.1:{port}: {said or 'no reason given'}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class _Subscriber:
    """A consumer like any other: prints each message as one JSON line, and counts the check-ins."""

    def __init__(self, port: int, start_s: float) -> None:
        self.subjects: Counter[str] = Counter()
        self._port = port
        self._start_s = start_s
        self._seen: set[str] = set()
        self._ready = threading.Event()
        self._changed = threading.Condition()
        self._client = paho.Client(
            CallbackAPIVersion.VERSION2, client_id="demo-subscriber", protocol=MQTTProtocolVersion.MQTTv5
        )
        self._client.on_connect = lambda client, *_: client.subscribe("#", qos=1)
        self._client.on_subscribe = lambda *_: self._ready.set()
        self._client.on_message = self._on_message

    def __enter__(self) -> Self:
        self._client.connect("127.0.0.1", self._port)
        self._client.loop_start()
        if not self._ready.wait(self._start_s):
            raise BrokerError("the demo's broker did not answer its subscriber in time; try again")
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def wait_for(self, check_ins: int, timeout_s: float) -> None:
        """Wait until this many check-ins have arrived, or the time is up."""
        with self._changed:
            self._changed.wait_for(lambda: self.subjects.total() >= check_ins, timeout_s)

    def _on_message(self, _client: paho.Client, _userdata: object, message: paho.MQTTMessage) -> None:
        payload = _parse(message.payload)
        click.echo(json.dumps({"topic": message.topic, "payload": payload}, ensure_ascii=False))
        if message.topic.endswith("/event/attendance") and isinstance(payload, dict):
            self._count(payload)

    def _count(self, event: dict[str, object]) -> None:
        """Delivery is at least once: an event id counts once."""
        subject = event.get("subject")
        if event["event_id"] in self._seen or not isinstance(subject, dict):
            return
        self._seen.add(str(event["event_id"]))
        with self._changed:
            self.subjects[str(subject["id"])] += 1
            self._changed.notify_all()


def _parse(payload: bytes | bytearray) -> object:
    try:
        document: object = json.loads(payload)
    except ValueError:
        return payload.decode(errors="replace")
    return document


def _say(text: str) -> None:
    click.echo(f"demo: {text}", err=True)
