"""Names, embeddings and pictures appear in no log, message, error text or core dump: a whole story, every output read.

What is looked for is planted: a name nobody has, the very embeddings and templates of the story, and its pictures, each
as bytes, hex, base64 and decimals.
"""

from __future__ import annotations

import base64
import contextlib
import re
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from broker import Mosquitto, Subscriber, wait_for
from command_line import Kiosk

from kiosk.config import Config
from kiosk.opencv import cv2
from kiosk.photo import read_photo
from kiosk.pipeline import build_pipeline
from kiosk.store import Store

# A whole story with a daemon killed on purpose: once is enough.
pytestmark = pytest.mark.faults

NAME = "Zyxwenna Quorblatt"
OTHER_NAME = "Vrembolt Ix-Qanata"
WORDS = re.split("[ -]", f"{NAME} {OTHER_NAME}")
_WINDOW = 12
"""So many bytes in a row are no chance."""
_MOST_DECIMALS = 3
"""Components of one embedding that a line may hold by chance, as numbers of four digits."""


@dataclass
class Canaries:
    """What must not get out."""

    pieces: set[bytes] = field(default_factory=set)
    embeddings: list[set[str]] = field(default_factory=list)

    def add_name(self, name: str) -> None:
        for word in re.split("[ -]", name):
            if len(word) > 3:
                self.add_bytes(word.encode(), window=len(word))

    def add_embedding(self, vector: np.ndarray) -> None:
        """Float32 in both byte orders, as int8, and as decimals."""
        for coded in (vector.astype("<f4"), vector.astype(">f4"), np.round(vector * 127).astype(np.int8)):
            self.add_bytes(coded.tobytes())
        self.embeddings.append({f"{abs(value):.4f}" for value in vector.tolist() if abs(value) >= 0.001})

    def add_bytes(self, data: bytes, *, window: int = _WINDOW) -> None:
        """Pieces from the whole length, for whoever cuts; of base64 the part that is the same for its alignment."""
        step = max(len(data) // 64, 1)
        for at in range(0, len(data) - window + 1, step):
            piece = data[at : at + window]
            # A black or white edge is no picture of anybody.
            if len(set(piece)) < min(5, window):
                continue
            self.pieces |= {piece, piece.hex().encode(), piece.hex().upper().encode()}
            for shift in range(3):
                coded = base64.b64encode(bytes(shift) + piece)
                self.pieces.add(coded[4 if shift else 0 : len(coded) // 4 * 4 - 4])

    def found_in(self, output: bytes) -> list[str]:
        folded = output.lower()
        found = [
            repr(piece) for piece in self.pieces if piece in output or (piece.isalpha() and piece.lower() in folded)
        ]
        for line in output.decode(errors="replace").splitlines():
            numbers = {f"{float(text):.4f}" for text in re.findall(r"\d\.\d{4,12}(?:e[+-]\d+)?", line)}
            found += [line[:200] for embedding in self.embeddings if len(numbers & embedding) > _MOST_DECIMALS]
        return found


class Outputs:
    """Everything said so far, by who said it."""

    def __init__(self) -> None:
        self.said: list[tuple[str, bytes]] = []

    def run(self, kiosk: Kiosk, *arguments: str | Path, code: int = 0) -> str:
        """A command with its log as loud as it gets. Its answer on stdout is for whoever asked, and is not kept."""
        result = kiosk(*arguments, "-vv")
        assert result.returncode == code, result.stderr
        self.said.append((f"kiosk {arguments[0]}: stderr", result.stderr.encode()))
        return result.stdout

    def listen(self, subscriber: Subscriber) -> None:
        self.said += [
            (f"MQTT {message.topic}", message.topic.encode() + b" " + message.payload)
            for message in subscriber.messages
        ]


@pytest.fixture
def pictures(tmp_path: Path, samples: Path) -> Path:
    """What the camera sees: someone enrolled, several times, and a stranger."""
    folder = tmp_path / "camera"
    folder.mkdir()
    for number in range(16):
        shutil.copy(samples / "obama2.jpg", folder / f"a{number:02}.jpg")
        shutil.copy(samples / "collins.jpg", folder / f"b{number:02}.jpg")
    return folder


def _allow_core_dumps() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (most, most))


@contextlib.contextmanager
def _daemon(kiosk: Kiosk, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "kiosk", "run", "--config", str(kiosk.config), "-vv"]
    with log.open("ab") as out:
        process = subprocess.Popen(
            command,
            stdout=out,
            stderr=out,
            cwd=kiosk.folder,
            env=kiosk._environment_with(None),
            preexec_fn=_allow_core_dumps,  # noqa: PLW1509 - it only makes a system call
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(10)


def test_what_is_looked_for_would_be_found() -> None:
    canaries = Canaries()
    canaries.add_name(NAME)
    vector = np.random.default_rng(1).standard_normal(128).astype(np.float32)
    vector /= np.linalg.norm(vector)
    canaries.add_embedding(vector)
    picture = np.random.default_rng(2).bytes(5000)
    canaries.add_bytes(picture)
    raw = vector.tobytes()
    leaks = {
        "a name": f"INFO hello {NAME}!".encode(),
        "a first name in capitals": b"WELCOME ZYXWENNA",
        "a name in base64": base64.b64encode(b"x" + NAME.encode()),
        "an embedding": b"\0\0" + raw,
        "its second half in hex": raw[256:].hex().encode(),
        "base64": base64.b64encode(raw),
        "base64 in another alignment": base64.b64encode(b"ab" + raw),
        "int8": np.round(vector * 127).astype(np.int8).tobytes(),
        "a list": str(vector.tolist()).encode(),
        "NumPy's way": np.array2string(vector, precision=6).encode(),
        "a picture": picture,
        "a picture in a data URL": b"data:image/jpeg;base64," + base64.b64encode(picture),
    }
    for what, leak in leaks.items():
        assert canaries.found_in(leak), what
    assert not canaries.found_in(
        b"INFO kiosk.daemon: check_in of E1 (event 7, score 0.967), threshold 0.8123, margin 0.1234"
    )


def test_nothing_personal_gets_out(kiosk: Kiosk, tmp_path: Path, samples: Path, pictures: Path) -> None:
    outputs, log = Outputs(), tmp_path / "daemon.log"
    photo, nobody = samples / "obama.jpg", tmp_path / "nobody.png"
    cv2.imwrite(str(nobody), np.full((480, 640, 3), 128, np.uint8))
    outputs.run(kiosk, "enroll", "E1", "--name", NAME, photo)
    outputs.run(kiosk, "enroll", "E2", "--name", OTHER_NAME, samples / "obama3.jpg", code=65)
    outputs.run(kiosk, "enroll", "E3", "--name", OTHER_NAME, nobody, code=65)
    outputs.run(kiosk, "enroll", "E4", "--name", f"{NAME}\n{OTHER_NAME}", photo, code=65)
    canaries = _canaries(kiosk, [photo, samples / "obama2.jpg", samples / "obama3.jpg", samples / "collins.jpg"])
    outputs.run(kiosk, "identify", samples / "obama2.jpg", samples / "collins.jpg")
    outputs.run(kiosk, "verify", photo, samples / "collins.jpg")
    with Mosquitto(tmp_path) as broker, Subscriber(broker.port, "#") as subscriber:
        kiosk.configure(
            camera={"source": str(pictures), "pace": "fast", "fps": 5},
            match={"refractory_s": 0},
            mqtt={"enabled": True, "host": "127.0.0.1", "port": broker.port, "rejected_events": True},
        )
        with _daemon(kiosk, log) as process:
            assert process.wait(60) == 0, log.read_text()
        subscriber.wait_for("event/attendance")
        subscriber.wait_for("event/rejected")
        outputs.run(kiosk, "why", "1")
        outputs.run(kiosk, "check")
        outputs.run(kiosk, "events", "--rejected")
        outputs.run(kiosk, "privacy", "report")
        outputs.run(kiosk, "subjects", "rename", "E1", OTHER_NAME)
        outputs.run(kiosk, "subjects", "show", "E1")
        _abort(kiosk, log)
        outputs.run(kiosk, "subjects", "remove", "E1", "--yes")
        outputs.run(kiosk, "subjects", "show", "E1", code=65)
        # The audit log is a log, too, and is kept when the person is gone.
        outputs.said.append(("audit log", outputs.run(kiosk, "audit", "list", "--json").encode()))
        outputs.listen(subscriber)
        outputs.said.append(("mosquitto", broker.log_text().encode()))
    outputs.said.append(("daemon", log.read_bytes()))
    assert b"check_in of E1" in log.read_bytes()
    assert {who: found for who, said in outputs.said if (found := canaries.found_in(said))} == {}


def _canaries(kiosk: Kiosk, photos: list[Path]) -> Canaries:
    """The names, the templates in the store, the embedding of every photo, its file, its picture and its crop."""
    canaries = Canaries()
    canaries.add_name(NAME)
    canaries.add_name(OTHER_NAME)
    pipeline = build_pipeline(Config.model_validate({"store": {"path": str(kiosk.store)}}))
    with Store.open(kiosk.store, writable=False) as store:
        templates = store.templates(pipeline.embedder.model_id)
    assert templates
    for template in templates:
        canaries.add_embedding(template.embedding)
    for path in photos:
        image = read_photo(path)
        face = pipeline.detector.detect(image)[0]
        crop = pipeline.embedder.crop(image, face)
        canaries.add_bytes(path.read_bytes()[2000:])
        canaries.add_bytes(image.tobytes())
        canaries.add_bytes(crop.tobytes())
        for embedding in (
            pipeline.embedder.embed(image, face),
            pipeline.embedder.embed_frame(image, face, mirrored=False),
            pipeline.embedder.embed_frame(image, face, mirrored=True),
        ):
            canaries.add_embedding(embedding)
    return canaries


def _abort(kiosk: Kiosk, log: Path) -> None:
    """As the watchdog does. No dump, although they are allowed; where the kernel pipes them, nothing would be in it."""
    kiosk.configure(camera={"loop": True})
    with sqlite3.connect(kiosk.store) as db:
        (before,) = db.execute("SELECT COUNT(*) FROM attendance").fetchone()

    def recognizes() -> bool:
        assert process.poll() is None, log.read_text()
        return bool(db.execute("SELECT COUNT(*) FROM attendance").fetchone()[0] > before)

    with _daemon(kiosk, log) as process:
        wait_for(recognizes, 30, what="a check-in")
        about = Path(f"/proc/{process.pid}")
        assert (about / "coredump_filter").read_text().strip() == "00000000"
        (limit,) = [
            line for line in (about / "limits").read_text().splitlines() if line.startswith("Max core file size")
        ]
        assert limit.split()[4:6] == ["0", "0"]
        process.send_signal(signal.SIGABRT)
        assert process.wait(10) == -signal.SIGABRT
    db.close()
    assert not list(kiosk.folder.glob("*core*"))


def test_a_name_leaves_the_device_only_where_it_is_configured(
    kiosk: Kiosk, tmp_path: Path, samples: Path, pictures: Path
) -> None:
    """And then with the events alone: still no embedding, no picture, and no name in the log."""
    log = tmp_path / "daemon.log"
    assert kiosk("enroll", "E1", "--name", NAME, samples / "obama.jpg").returncode == 0
    canaries = _canaries(kiosk, [samples / "obama2.jpg"])
    with Mosquitto(tmp_path) as broker, Subscriber(broker.port, "#") as subscriber:
        mqtt = {"enabled": True, "host": "127.0.0.1", "port": broker.port, "include_names": True}
        kiosk.configure(camera={"source": str(pictures), "pace": "fast", "fps": 5}, mqtt=mqtt)
        with _daemon(kiosk, log) as process:
            assert process.wait(60) == 0, log.read_text()
        events = subscriber.wait_for("event/attendance")
        others = [message for message in subscriber.messages if not message.topic.endswith("event/attendance")]
    assert {event.json()["subject"]["name"] for event in events} == {NAME}
    assert not canaries.found_in(log.read_bytes())
    assert not any(canaries.found_in(message.payload) for message in others)
    for event in events:
        assert not canaries.found_in(event.payload.replace(NAME.encode(), b""))
    # Switched off again, it goes out of what was recorded meanwhile.
    kiosk.configure(mqtt={"include_names": False})
    with _daemon(kiosk, log) as process:
        assert process.wait(60) == 0, log.read_text()
    with Store.open(kiosk.store, writable=False) as store:
        assert store.named_events() == 0
        assert {event["subject"]["id"] for event in store.event_payloads()} == {"E1"}
