"""The ways for foreign bytes into the kiosk, each with real seeds and the kiosk's own code behind it.

``check`` returns how the input was taken, or raises: :class:`Defect` where the outcome is none that is documented, and
whatever the kiosk lets through, which would be a traceback to its user.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import shutil
import socket
import threading
import zlib
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import yaml
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from fuzz.mutation import BYTES, Mutator, bomb_png, damage_jpeg, damage_png, mutate, splice
from kiosk.errors import KioskError

REPO = Path(__file__).resolve().parent.parent.parent
SAMPLES = REPO / "kiosk" / "data" / "samples"
MODELS = REPO / "kiosk" / "data" / "models"

DOCUMENTED_EXITS = frozenset({0, 64, 65, 69, 73, 74, 77, 78})
_LONGEST_ERROR = 20_000

TAKEN, REFUSED = "taken", "refused"


class Defect(Exception):
    """Something happened that must not."""


class Surface(ABC):
    """One way in. Prepared once in a worker, in a folder of its own."""

    name: ClassVar[str]
    made_up_share: ClassVar[float] = 0.0
    """How many of the inputs Hypothesis makes up; the others are damaged seeds."""
    limit_s: ClassVar[float] = 2.0
    """How long one input may take."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @abstractmethod
    def seeds(self) -> list[bytes]:
        """Valid inputs."""

    @abstractmethod
    def check(self, data: bytes) -> str:
        """Feed it to the kiosk."""

    def mutators(self) -> tuple[Mutator, ...]:
        return BYTES

    def strategy(self) -> SearchStrategy[bytes]:
        """Made-up inputs; only a surface that has a share of them is asked."""
        raise TypeError(f"{self.name}: has no made-up inputs")

    def damaged(self, rng: random.Random, seeds: list[bytes]) -> bytes:
        return mutate(rng.choice(seeds), rng, self.mutators())

    def close(self) -> None:  # noqa: B027 - most hold nothing
        """Let go of what it holds."""


def refusal(error: KioskError) -> str:
    """An error is documented when it has an exit code of its own and fits on a screen."""
    if error.exit_code not in DOCUMENTED_EXITS - {0}:
        raise Defect(f"exit code {error.exit_code}: {error}")
    text = str(error)
    if not text or len(text) > _LONGEST_ERROR:
        raise Defect(f"an error of {len(text)} characters")
    return REFUSED


# Pictures


class Photos(Surface):
    """``kiosk identify FILE``: read, decode, detect, judge, align, embed, search."""

    name = "photo"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        from kiosk.config import Config
        from kiosk.gallery import Gallery
        from kiosk.pipeline import build_pipeline, build_recognizer

        config = Config.model_validate({"store": {"path": str(folder / "kiosk.db")}})
        pipeline = build_pipeline(config)
        gallery = Gallery(pipeline.embedder.model_id, [])
        self._recognizer = build_recognizer(config, pipeline, gallery)
        self._path = folder / "photo.jpg"

    def seeds(self) -> list[bytes]:
        return photo_seeds()

    def mutators(self) -> tuple[Mutator, ...]:
        return (*BYTES, splice([b"\xff\xd9", b"\xff\xda", b"\xff\xc2", b"IEND", b"VP8X", b"VP8L", b"ANIM", b"II*\0"]))

    def damaged(self, rng: random.Random, seeds: list[bytes]) -> bytes:
        seed = rng.choice(seeds)
        draw = rng.random()
        if draw < 0.03:
            side = rng.choice([1000, 4000, 7990, 20_000])
            return bomb_png(side, rng.choice([1, 10, side]))
        if draw < 0.4 and seed.startswith(b"\x89PNG"):
            return damage_png(seed, rng)
        if draw < 0.4 and seed.startswith(b"\xff\xd8"):
            return damage_jpeg(seed, rng)
        return super().damaged(rng, seeds)

    def check(self, data: bytes) -> str:
        from kiosk.photo import load_photo

        self._path.write_bytes(data)
        try:
            photo = load_photo(self._path)
        except KioskError as error:
            return refusal(error)
        if photo.image.dtype != np.uint8 or photo.image.ndim != 3 or photo.image.shape[2] != 3:
            raise Defect(f"an image of {photo.image.dtype} {photo.image.shape}")
        self._recognizer.analyse(photo.image)
        return TAKEN


def photo_seeds() -> list[bytes]:
    """One small face in every format there is an encoder for, and one photo as phones take them."""
    from kiosk.opencv import cv2

    face = cv2.resize(cv2.imread(str(SAMPLES / "obama2.jpg")), (160, 200))
    large = cv2.resize(face, (4000, 3000), interpolation=cv2.INTER_NEAREST)
    colours: list[tuple[str, Any, list[int]]] = [
        (".jpg", face, []),
        (".jpg", face, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]),
        (".jpg", face, [cv2.IMWRITE_JPEG_RST_INTERVAL, 4]),
        (".jpg", face[:, :, 0], []),
        (".jpg", large, [cv2.IMWRITE_JPEG_QUALITY, 30]),
        (".png", face, []),
        (".png", face[:, :, 0], []),
        (".png", cv2.cvtColor(face, cv2.COLOR_BGR2BGRA), []),
        (".png", face.astype(np.uint16) * 257, []),
        (".png", face[:, :, :1], [cv2.IMWRITE_PNG_BILEVEL, 1]),
        (".webp", face, [cv2.IMWRITE_WEBP_QUALITY, 80]),
        (".webp", cv2.cvtColor(face, cv2.COLOR_BGR2BGRA), [cv2.IMWRITE_WEBP_QUALITY, 101]),
        (".bmp", face[:60, :60], []),
        (".tif", face[:60, :60], []),
        (".tif", face[:60, :60].astype(np.uint16), []),
        (".tif", face[:60, :60].astype(np.float32), []),
        (".ppm", face[:60, :60], []),
        (".pam", face[:60, :60], []),
        (".ras", face[:60, :60], []),
        (".hdr", face[:60, :60].astype(np.float32), []),
    ]
    seeds = [cv2.imencode(kind, picture, options)[1].tobytes() for kind, picture, options in colours]
    seeds.append((SAMPLES / "biden.jpg").read_bytes())
    # OpenCV 4.10 writes neither of these.
    for kind in (".gif", ".avif"):
        with contextlib.suppress(cv2.error):
            seeds.append(cv2.imencode(kind, face[:60, :60])[1].tobytes())
    return seeds


class CameraStream(Surface):
    """An HTTP camera that sends anything: the daemon's own camera object, over a real connection."""

    name = "camera"
    # A stream that stalls is opened again after half a second here; the daemon's loop goes on meanwhile.
    limit_s = 5.0

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        from kiosk.camera import open_camera
        from kiosk.detector import BlazeFaceDetector

        self._detector = BlazeFaceDetector()
        self._feed = Feed([_part(_picture(0))])
        self._camera = open_camera(source=self._feed.url, open_timeout_s=2, read_timeout_s=0.5, frozen_after_s=0)
        self._number = 0

    def seeds(self) -> list[bytes]:
        from kiosk.opencv import cv2

        picture = _picture(1)
        progressive = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
        large = cv2.imencode(".jpg", cv2.resize(picture, (3840, 2160)), [cv2.IMWRITE_JPEG_QUALITY, 20])[1].tobytes()
        return [_part(picture), wrapped(progressive), wrapped(large), _part(picture) * 3]

    def mutators(self) -> tuple[Mutator, ...]:
        words = [
            b"\r\n",
            b"--frame",
            b"Content-Length: 99999999\r\n",
            b"Content-Length: -1\r\n",
            b"\xff\xd8",
            b"\xff\xd9",
        ]
        return (*BYTES, splice(words))

    def damaged(self, rng: random.Random, seeds: list[bytes]) -> bytes:
        from kiosk.opencv import cv2

        draw = rng.random()
        if draw < 0.5:
            # The frame around it is right: it is the decoder that meets the damage.
            jpeg = cv2.imencode(".jpg", _picture(rng.randrange(99)))[1].tobytes()
            return wrapped(damage_jpeg(jpeg, rng) if draw < 0.25 else mutate(jpeg, rng))
        return super().damaged(rng, seeds)

    def check(self, data: bytes) -> str:
        """The stream goes on with good pictures: they must come through."""
        self._number += 1
        good = _picture(self._number)
        self._feed.send(data)
        self._feed.good = [_part(good)]
        seen = 0
        for _ in range(200):
            frame = self._camera.read(0.05)
            if frame is None:
                continue
            self._detector.detect(frame.image)
            seen += 1
            if frame.image.shape == good.shape and np.abs(frame.image.astype(int) - good).mean() < 8:
                return TAKEN if seen > 1 else REFUSED
        raise Defect(f"no good picture came through any more; {self._camera.fault}")

    def close(self) -> None:
        self._camera.close()
        self._feed.close()


def _picture(number: int) -> Any:
    """Squares that differ from number to number."""
    rng = np.random.default_rng(number)
    return np.kron(rng.integers(0, 256, (6, 8, 3), np.uint8), np.ones((20, 20, 1), np.uint8))


def _part(picture: Any) -> bytes:
    from kiosk.opencv import cv2

    return wrapped(cv2.imencode(".jpg", picture)[1].tobytes())


def wrapped(jpeg: bytes) -> bytes:
    return b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%s\r\n" % (len(jpeg), jpeg)


class Feed:
    """An HTTP camera: sends what is to be sent once, and good parts, one after the other, all the time."""

    def __init__(self, good: list[bytes], *, interval_s: float = 0.004) -> None:
        self.good = good
        self._interval_s = interval_s
        self._once: deque[bytes] = deque()
        self._closed = threading.Event()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/camera.mjpg"
        threading.Thread(target=self._serve, daemon=True).start()

    def send(self, once: bytes) -> None:
        self._once.append(once)

    @property
    def waiting(self) -> int:
        """How many have not been sent yet."""
        return len(self._once)

    def close(self) -> None:
        self._closed.set()
        self._socket.close()

    def _serve(self) -> None:
        while not self._closed.is_set():
            try:
                client, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(client,), daemon=True).start()

    def _answer(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            client.recv(4096)
            client.sendall(b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=frame\r\n\r\n")
            number = 0
            while not self._closed.wait(self._interval_s):
                with contextlib.suppress(IndexError):
                    client.sendall(self._once.popleft())
                client.sendall(self.good[number % len(self.good)])
                number += 1


class Videos(Surface):
    """``camera.source: clip.avi``."""

    name = "video"

    def seeds(self) -> list[bytes]:
        from kiosk.opencv import cv2

        seeds = []
        for codec, kind in (("MJPG", "avi"), ("mp4v", "mp4"), ("FFV1", "mkv"), ("XVID", "avi")):
            path = self.folder / f"seed-{codec}.{kind}"
            writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), 10, (160, 120))
            for number in range(6):
                writer.write(_picture(number))
            writer.release()
            if path.exists() and path.stat().st_size:
                seeds.append(path.read_bytes())
        return seeds

    def check(self, data: bytes) -> str:
        from kiosk.camera import open_camera
        from kiosk.ports import EndOfStream

        path = self.folder / "clip.avi"
        path.write_bytes(data)
        try:
            with open_camera(source=str(path), pace="fast") as camera:
                for _ in range(30):
                    camera.read(0.05)
        except EndOfStream:
            pass
        except KioskError as error:
            return refusal(error)
        return TAKEN


class Badges(Surface):
    """``code.camera: true``: patterns before the camera, as they lie in its picture.

    An input is a pattern of modules and how it is held: width (2 bytes), turn, noise and pixels a module (1 each), and
    the modules row by row, eight in a byte.
    """

    name = "badge"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        from kiosk.badges import BadgeFinder

        self._new_finder = BadgeFinder

    def seeds(self) -> list[bytes]:
        """Badges of ours, and codes of all other sizes and kinds: text, bytes, digits, kanji, parts of a series."""
        import segno

        codes = [segno.make_qr(token, error=error) for token in _TOKENS for error in "LQH"]
        codes += [segno.make_qr("A" * length, error="L") for length in (1, 100, 1000, 4000)]
        codes += [segno.make_qr(content) for content in ("0123456789", "漢字", b"\xff\xfe\x00", "WIFI:S:a;P:b;;")]
        codes += [segno.make_qr("ä" * 40, eci=True), *segno.make_sequence("part of it", symbol_count=3, version=5)]
        codes.append(segno.make_micro("1234"))
        return [self._pattern(np.array([list(row) for row in code.matrix_iter(border=4)])) for code in codes]

    def damaged(self, rng: random.Random, seeds: list[bytes]) -> bytes:
        if rng.random() < 0.3:
            return self._pattern(_finder_sheet(rng), turn=rng.choice([0, 0, 30, 200]), noise=rng.choice([0, 0, 9, 60]))
        seed = rng.choice(seeds)
        if rng.random() < 0.5:
            # Held well, so that it is the decoder that meets the damage.
            modules = bytearray(seed[5:])
            for _ in range(rng.choice([1, 5, 20, 80])):
                modules[rng.randrange(len(modules))] ^= 1 << rng.randrange(8)
            return seed[:5] + bytes(modules)
        held = bytes([rng.randrange(256), rng.choice([0, 8, 16, 60]), rng.randrange(1, 16)])
        return seed[:2] + held + mutate(seed[5:], rng, self.mutators())

    @staticmethod
    def _pattern(modules: Any, *, turn: int = 0, noise: int = 4, px: int = 0) -> bytes:
        width = modules.shape[1]
        px = px or max(1, min(15, 600 // max(modules.shape)))
        return width.to_bytes(2, "big") + bytes([turn, noise, px]) + np.packbits(modules > 0).tobytes()

    def check(self, data: bytes) -> str:
        token = self._new_finder().find(_held_before_a_camera(data), 0.0)
        if token is None:
            return REFUSED
        if token not in _TOKENS:
            raise Defect(f"a token that nobody has: {token}")
        return TAKEN


_TOKENS = ("0123456789abcdef" * 2, "f" * 32, "00112233445566778899aabbccddeeff")


def _finder_sheet(rng: random.Random) -> Any:
    """A sheet of what the detector looks for first: the squares in three corners of a code."""
    square = np.ones((7, 7), np.uint8)
    square[1:6, 1:6] = 0
    square[2:5, 2:5] = 1
    times = rng.choice([1, 1, 2, 3])
    square = np.kron(square, np.ones((times, times), np.uint8))
    width, height = rng.choice([(320, 180), (640, 360), (1280, 720), (160, 90)])
    sheet = np.zeros((height, width), np.uint8)
    step = square.shape[0] + rng.choice([1, 2, 4, 9])
    for top in range(1, height - square.shape[0], step):
        for left in range(1, width - square.shape[1], step):
            if rng.random() < 0.95:
                sheet[top : top + square.shape[0], left : left + square.shape[1]] = square
    return sheet


def _held_before_a_camera(data: bytes) -> Any:
    """A picture of 1280 x 720 in which the modules are black on a white sheet."""
    from kiosk.opencv import cv2

    width, turn, noise, px = int.from_bytes(data[:2], "big") % 1281 or 1, *data[2:5].ljust(3, b"\1")
    bits = np.unpackbits(np.frombuffer(data[5:], np.uint8))[: width * 720]
    rows = max(len(bits) // width, 1)
    modules = np.resize(bits, (rows, width)) if len(bits) else np.zeros((rows, width), np.uint8)
    sheet = np.kron(1 - modules, np.full((max(px % 16, 1),) * 2, 255, np.uint8))[:720, :1280].astype(np.uint8)
    canvas = np.full((720, 1280), 110, np.uint8)
    top, left = (720 - sheet.shape[0]) // 2, (1280 - sheet.shape[1]) // 2
    canvas[top : top + sheet.shape[0], left : left + sheet.shape[1]] = sheet
    turned = cv2.getRotationMatrix2D((640, 360), turn * 360 / 256, 1.0)
    canvas = cv2.warpAffine(canvas, turned, (1280, 720), borderMode=cv2.BORDER_REPLICATE).astype(np.uint8)
    grain = np.random.default_rng(len(data)).normal(0, noise, canvas.shape) if noise else 0
    return cv2.cvtColor(np.clip(canvas + grain, 0, 255).astype(np.uint8), cv2.COLOR_GRAY2BGR)


# Texts


_KEYS = ["device", "camera", "model", "face", "match", "pad", "attendance", "store", "mqtt", "privacy", "site", "id"]
_KEYS += [
    "timezone",
    "source",
    "width",
    "fps",
    "rotate",
    "threshold",
    "frames",
    "path",
    "host",
    "port",
    "tls",
    "ca_file",
]
_KEYS += ["password_file", "topic_root", "backups", "every_h", "fpir", "margin", "retention_days", "pace", "loop"]
_YAML_WORDS = [
    b"&a ",
    b"*a ",
    b"!!python/object:os.system ",
    b"---\n",
    b"? ",
    b"- ",
    b"<<: ",
    b"|\n",
    b">-\n",
    b"{",
    b"[",
]
_YAML_WORDS += [
    b"]",
    b"}",
    b": ",
    b"\t",
    b"'",
    b'"',
    b"\\x00",
    b".nan",
    b".inf",
    b"0o17",
    b"22:30",
    b"1e999",
    b"null",
    b"~",
]


def _scalars() -> SearchStrategy[Any]:
    numbers = st.integers() | st.floats() | st.integers(min_value=-2, max_value=70_000)
    return st.none() | st.booleans() | numbers | st.text(max_size=30) | st.dates() | st.binary(max_size=8)


def _trees() -> SearchStrategy[Any]:
    keys = st.sampled_from(_KEYS) | st.text(max_size=12) | st.integers() | st.none()
    return st.recursive(
        _scalars(), lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=6), max_leaves=20
    )


class Configurations(Surface):
    """``--config FILE`` and the environment."""

    name = "config"
    made_up_share = 0.5

    def seeds(self) -> list[bytes]:
        texts = [(REPO / "config.yaml").read_bytes()]
        texts.append(b"mqtt: {host: localhost, port: 1884, tls: {ca_file: /a}}\ncamera:\n  source: 'rtsp://u:p@h/c'\n")
        return [*texts, *(b"\0" + text for text in _environments())]

    def mutators(self) -> tuple[Mutator, ...]:
        return (*BYTES, splice(_YAML_WORDS), splice([f"{key}: ".encode() for key in _KEYS]))

    def strategy(self) -> SearchStrategy[bytes]:
        def dump(tree: Any) -> bytes:
            return yaml.safe_dump(tree, allow_unicode=True).encode("utf-8", "surrogatepass")

        token = st.sampled_from(
            [word.decode() for word in _YAML_WORDS] + [f"{key}: " for key in _KEYS] + ["\n  ", "\n"]
        )
        soup = st.lists(token | st.text(max_size=5), max_size=40).map(lambda parts: "".join(parts).encode())
        trees = st.dictionaries(st.sampled_from(_KEYS) | st.text(max_size=9), _trees(), max_size=6).map(dump)
        names = st.sampled_from(_variables()) | st.text(max_size=20).map(lambda text: f"KIOSK_{text}")
        environment = st.dictionaries(names, st.text(max_size=40) | _scalars().map(str), max_size=5)
        return trees | soup | environment.map(_as_environment)

    def check(self, data: bytes) -> str:
        from kiosk import config

        path: Path | None = self.folder / "config.yaml"
        environment: dict[str, str] = {"KIOSK_CONFIG": "/dev/null/none"}
        if data.startswith(b"\0"):
            # No process can have a NUL in its environment, nor = in a variable's name.
            pairs = [line.split(b"=", 1) for line in data[1:].split(b"\0") if b"=" in line]
            environment = {os.fsdecode(name): os.fsdecode(value) for name, value in pairs}
            environment["KIOSK_CONFIG"] = str(path)
            (self.folder / "config.yaml").write_bytes(b"")
            path = None
        else:
            (self.folder / "config.yaml").write_bytes(data)
        try:
            config.load(path, environment)
        except KioskError as error:
            return refusal(error)
        return TAKEN


def _variables() -> list[str]:
    from kiosk.config._fields import field_guides

    return [guide.variable for guide in field_guides().values()]


def _as_environment(variables: dict[str, str]) -> bytes:
    lines = [f"{name.replace('=', '')}={value}".replace("\0", "") for name, value in variables.items()]
    return b"\0" + "\0".join(lines).encode("utf-8", "surrogatepass")


def _environments() -> list[bytes]:
    return [b"KIOSK_MQTT__PORT=1884\0KIOSK_CAMERA__SOURCE=0", b"KIOSK_MATCH__THRESHOLD=auto\0KIOSK_MQTT__TLS={}"]


class Secrets(Surface):
    """The broker's password file, CA, certificate and key."""

    name = "secrets"

    def seeds(self) -> list[bytes]:
        from broker import make_certificates

        if not (self.folder / "ca.crt").exists():
            make_certificates(self.folder, "door")
        return [b"hunter2\n", *((self.folder / name).read_bytes() for name in ("ca.crt", "door.crt", "door.key"))]

    def mutators(self) -> tuple[Mutator, ...]:
        return (*BYTES, splice([b"-----BEGIN CERTIFICATE-----\n", b"-----END CERTIFICATE-----\n", b"\0", b"\xff\xfe"]))

    def check(self, data: bytes) -> str:
        from kiosk.mqtt import BrokerSettings, Tls
        from kiosk.mqtt._settings import check_files

        path = self.folder / "secret"
        path.write_bytes(data)
        path.chmod(0o600)
        sound = {name: self.folder / f"door.{name}" for name in ("crt", "key")}
        kinds = [
            BrokerSettings("localhost", 1883, "kiosk", password_file=path),
            BrokerSettings("localhost", 1883, tls=Tls(ca_file=path)),
            BrokerSettings("localhost", 1883, tls=Tls(cert_file=path, key_file=sound["key"])),
            BrokerSettings("localhost", 1883, tls=Tls(cert_file=sound["crt"], key_file=path)),
        ]
        outcome = TAKEN
        for settings in kinds:
            try:
                check_files(settings)
            except KioskError as error:
                outcome = refusal(error)
        return outcome


_COMMANDS = (
    "subjects show <E1>",
    "subjects list --json",
    "subjects rename <E1> <Ana>",
    "subjects consent <E1> <DOC-1>",
    "subjects consent E1 DOC-1 --date <2026-01-01> --version <3> --until <2027-01-01>",
    "subjects remove <E9> --yes",
    "enroll <E2> --name <Bo> photo.jpg",
    "enroll <E2> <photo.jpg>",
    "enroll E2 --consent <DOC-2> --consent-until <2027-01-01> photo.jpg",
    "identify <photo.jpg> <photo.jpg>",
    "verify <photo.jpg> photo.jpg",
    "events --since <2026-03-02> --until <7d>",
    "events --subject <E1> --format <json>",
    "why <1>",
    "outbox list",
    "outbox retry <1>",
    "audit list --since <7d>",
    "audit verify --head <1:00ff>",
    "privacy report --subject <E1> --json",
    "calibrate --fpir <0.001>",
    "model info <nobody>",
    "model remove <nobody> --yes",
)
"""What stands in angle brackets is the user's own."""


class Commands(Surface):
    """``kiosk ...``: ids, names, times, references, numbers as a shell hands them over."""

    name = "command"
    made_up_share = 0.7

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        from kiosk.biometrics import ModelId, SubjectId
        from kiosk.store import NewTemplate, Store

        self._store = folder / "kiosk.db"
        (folder / "config.yaml").write_text(f"store: {{path: {self._store}}}\nmqtt: {{enabled: false}}\n")
        os.environ["KIOSK_CONFIG"] = str(folder / "config.yaml")
        vector = np.zeros(128, np.float32)
        vector[0] = 1
        with Store.open(self._store) as store:
            store.enroll(SubjectId("E1"), [NewTemplate(ModelId("m@1"), vector)], name="Ana")
        (folder / "photo.jpg").write_bytes(b"no photo")

    def seeds(self) -> list[bytes]:
        return ["\0".join(line.replace("<", "").replace(">", "").split()).encode() for line in _COMMANDS]

    def damaged(self, rng: random.Random, seeds: list[bytes]) -> bytes:  # noqa: ARG002
        """Mostly what the words stand for, now and then the words."""
        words = [word.encode() for word in rng.choice(_COMMANDS).split()]
        hostile = [
            b"--",
            b"../",
            b"'; DROP TABLE subjects; --",
            b"%s",
            b"\xff",
            "김".encode(),
            b"\n",
            b"9" * 40,
            b"\x1b[2J",
        ]
        for place, word in enumerate(words):
            if word.startswith(b"<") or rng.random() < 0.02:
                words[place] = mutate(word.strip(b"<>"), rng, (*BYTES, splice(hostile))).replace(b"\0", b"")
        return b"\0".join(words)

    def strategy(self) -> SearchStrategy[bytes]:
        word = st.text(max_size=70) | st.text(st.characters(categories=["Cc", "Cf", "Zs", "Mn", "Co"]), max_size=9)
        word |= (
            st.from_regex(r"[A-Za-z0-9._+#$/ -]{0,70}", fullmatch=True) | st.integers().map(str) | st.dates().map(str)
        )
        word |= st.sampled_from(["", ".", "..", "-", "--", "E1", "E1\n", "CON", "$SYS", "e\u0301", "\u202e", "A" * 300])

        @st.composite
        def lines(draw: Callable[[SearchStrategy[Any]], Any]) -> bytes:
            line = draw(st.sampled_from(_COMMANDS)).split()
            words = [draw(word) if part.startswith("<") else part for part in line]
            return "\0".join(text.replace("\0", "") for text in words).encode("utf-8", "surrogateescape")

        return lines()

    def check(self, data: bytes) -> str:
        from kiosk import cli

        # Arguments as the system hands them over; what runs for ever, or elsewhere, is left to other surfaces.
        line = [os.fsdecode(word) for word in data.split(b"\0")]
        if set(line) & {"run", "demo", "--follow", "-f", "--plot", "--out", "install", "--camera", "--from-dir"}:
            return REFUSED
        here = Path.cwd()
        os.chdir(self.folder)
        try:
            # The exit code 70 is what stands for a traceback.
            code = cli.run(line)
        finally:
            os.chdir(here)
        if code not in DOCUMENTED_EXITS:
            raise Defect(f"exit code {code} of {line}")
        return f"exit {code}"


class Replays(Surface):
    """Payloads on ``cmd/replay``, as the publisher hears them, with a real store."""

    name = "replay"
    made_up_share = 0.5

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        from kiosk.biometrics import SubjectId
        from kiosk.clock import SystemClock
        from kiosk.codes import Kind
        from kiosk.events import EventType, Moment, Origin
        from kiosk.publisher import Publisher
        from kiosk.store import Store

        self._store = Store.open(folder / "kiosk.db")
        ana, moment = SubjectId("E1"), Moment(1_772_438_293_412, synchronized=True, boottime_ms=1000, boot_id="boot")
        self._store.enroll(ana, [])
        # So many that the seeds ask for something that is kept.
        for _ in range(5):
            self._store.record_code_check_in(
                ana, Kind.PIN, event_type=EventType.CHECK_IN, moment=moment, origin=Origin("hq", "door-1", "UTC")
            )
        self._publisher = Publisher(self._store, _NoBroker(), wake=threading.Event(), clock=SystemClock())

    def seeds(self) -> list[bytes]:
        return self.payload_seeds()

    @staticmethod
    def payload_seeds() -> list[bytes]:
        return [b'{"from_seq": 1, "to_seq": 99, "id": "a"}', b'{"id":"0198f2c6","from_seq":5,"to_seq":5}']

    def mutators(self) -> tuple[Mutator, ...]:
        words = [
            b'"from_seq"',
            b"1e5",
            b"-1",
            b"NaN",
            b"true",
            b"null",
            b"9" * 400,
            b"[" * 2000,
            b"\\ud800",
            b"\xef\xbb\xbf",
        ]
        return (*BYTES, splice(words))

    def strategy(self) -> SearchStrategy[bytes]:
        return json_documents(["from_seq", "to_seq", "id"])

    def check(self, data: bytes) -> str:
        from kiosk.ports import Command
        from kiosk.store._replay_limits import ReplayLimits

        # A day for each.
        self._store.replay_limits = ReplayLimits()
        self._publisher._hear(Command(data, None))
        batch = self._store.next_replay(1)
        if batch is None:
            return REFUSED
        self._store.advance_replay(batch.command_id, None)
        return TAKEN

    def close(self) -> None:
        self._store.close()


class _NoBroker:
    connected = False

    def publish(self, messages: Any) -> Any:
        raise AssertionError(messages)


def json_documents(keys: list[str]) -> SearchStrategy[bytes]:
    """Objects with these keys and values of every kind, and what merely looks like JSON."""
    value = st.recursive(
        st.none() | st.booleans() | st.integers() | st.integers(0, 9) | st.floats() | st.text(max_size=20),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=6,
    )
    name = st.sampled_from(keys) | st.text(max_size=6)

    def dump(document: Any) -> bytes:
        return json.dumps(document, ensure_ascii=False).encode("utf-8", "surrogatepass")

    return st.dictionaries(name, value, max_size=5).map(dump) | value.map(dump) | st.binary(max_size=60)


# A broker that is no friend


_CONNACK = bytes([0x20, 3, 0, 0, 0])
_ONLINE = {
    "connack": _CONNACK,
    "with limits": bytes([0x20, 11, 0, 0, 8, 0x21, 0, 5, 0x27, 0, 0, 0x10, 0]),
    "refusal": bytes([0x20, 3, 0, 0x87, 0]),
    "suback": bytes([0x90, 4, 0, 1, 0, 1]),
    "puback": bytes([0x40, 2, 0, 1]),
    "puback 5": bytes([0x40, 4, 0, 2, 0x10, 0]),
    "disconnect": bytes([0xE0, 2, 0x8D, 0]),
    "pingresp": bytes([0xD0, 0]),
    "publish": bytes([0x32, 14, 0, 5]) + b"a/b/c" + bytes([0, 7, 0]) + b"{}{}",
}


class Brokers(Surface):
    """What a broker answers, byte by byte; the kiosk's session must come to an end, and its threads too."""

    name = "broker"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._server = socket.create_server(("127.0.0.1", 0))
        self._answers: list[bytes] = []
        threading.Thread(target=self._serve, daemon=True).start()
        self._broken_threads: list[str] = []
        threading.excepthook = lambda args: self._broken_threads.append(f"{args.exc_type.__name__}: {args.exc_value}")

    def seeds(self) -> list[bytes]:
        return [
            _CONNACK + b"".join(_ONLINE[name] for name in names)
            for names in ([], ["suback", "puback"], ["publish"], ["disconnect"], ["pingresp", "publish", "puback 5"])
        ] + [_ONLINE["refusal"], _ONLINE["with limits"] + _ONLINE["suback"]]

    def mutators(self) -> tuple[Mutator, ...]:
        return (*BYTES, splice(list(_ONLINE.values())), splice([bytes([0xFF, 0xFF, 0xFF, 0x7F]), bytes([0x32])]))

    def damaged(self, rng: random.Random, seeds: list[bytes]) -> bytes:
        # Half of the time the session is open before the damage comes.
        return (_CONNACK if rng.random() < 0.5 else b"") + super().damaged(rng, seeds)

    def check(self, data: bytes) -> str:
        from kiosk.mqtt import BrokerSettings
        from kiosk.mqtt._session import Session

        self._answers.append(data)
        session = Session(BrokerSettings("127.0.0.1", self._server.getsockname()[1]), "kiosk-hq-door-1")
        outcome = TAKEN
        try:
            session.open(1.0)
            session.listen("kiosk/v1/hq/door-1/cmd/replay", lambda command: command.payload.decode(errors="replace"))
            session.send("kiosk/v1/hq/door-1/status", b"online")
            session.publish([("kiosk/v1/hq/door-1/event", b"{}")], timeout_s=0.3)
            # The peer has closed: whoever waits for the end of the session, as the adapter does, must see it.
            if not session.closed.wait(1.0):
                raise Defect(f"the session never ended; threads broke with {self._broken_threads}")
        except KioskError as error:
            outcome = refusal(error)
        finally:
            session.close()
        if self._broken_threads:
            raise Defect(f"a thread broke with {self._broken_threads.pop()}")
        return outcome

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            with client, contextlib.suppress(OSError, IndexError):
                client.settimeout(0.2)
                client.recv(4096)
                client.sendall(self._answers.pop(0))
                # Whatever the kiosk still has to say is read, so that the end is none by RST.
                client.shutdown(socket.SHUT_WR)
                while client.recv(4096):
                    pass

    def close(self) -> None:
        self._server.close()


# Models


class Manifests(Surface):
    """``manifest.json`` and ``pad.json`` of bundles whose hashes match, and all that is computed from them."""

    name = "manifest"
    made_up_share = 0.4

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._bundle, self._pad = folder / "bundle", folder / "pad-int8"
        for target in (self._bundle, self._pad):
            target.mkdir()
            (target / "model.tflite").write_bytes(b"TFL3")
        self._sha256 = hashlib.sha256(b"TFL3").hexdigest()

    def seeds(self) -> list[bytes]:
        manifest = json.loads((MODELS / "dlib-resnet29-int8" / "manifest.json").read_text())
        manifest |= {"tflite_sha256": self._sha256, "report": {}}
        source = manifest["source"]
        network = {"file": "model.tflite", "sha256": self._sha256, "architecture": "a", "scale": 2.7, "source": source}
        pad: dict[str, Any] = {"schema": 1, "name": "pad-int8", "variant": "int8", "input_size_px": 80}
        pad |= {"networks": [network], "threshold": 0.5, "report": {}}
        return [json.dumps(manifest).encode(), b"\0" + json.dumps(pad).encode()]

    def mutators(self) -> tuple[Mutator, ...]:
        words = [
            b"NaN",
            b"Infinity",
            b"-1e400",
            b"1e-320",
            b"[]",
            b"{}",
            b"null",
            b'""',
            b"0",
            b"-0.0",
            b"../",
            b"9" * 400,
        ]
        return (*BYTES, splice(words))

    def strategy(self) -> SearchStrategy[bytes]:
        """One or two places of a valid manifest hold something else."""
        documents = [json.loads(seed.removeprefix(b"\0")) for seed in self.seeds()]
        places = [(number, path) for number, document in enumerate(documents) for path in _places(document)]
        value = (
            st.none()
            | st.booleans()
            | st.integers()
            | st.floats()
            | st.text(max_size=9)
            | st.lists(st.floats(), max_size=3)
        )
        value |= st.sampled_from(
            [[], {}, 0, -1, 1e-9, 1, 2, 1e308, float("nan"), float("inf"), "../../etc/passwd", "a" * 500]
        )

        @st.composite
        def changed(draw: Callable[[SearchStrategy[Any]], Any]) -> bytes:
            number, _ = draw(st.sampled_from(places))
            document = json.loads(json.dumps(documents[number]))
            for _ in range(draw(st.integers(1, 2))):
                _put(document, draw(st.sampled_from([path for which, path in places if which == number])), draw(value))
            return (b"\0" if number else b"") + json.dumps(document).encode("utf-8", "surrogatepass")

        return changed()

    def check(self, data: bytes) -> str:
        from kiosk.bundle import read_bundle
        from kiosk.gallery import Gallery
        from kiosk.pad import read_pad_bundle
        from kiosk.pipeline import _automatic_rule, explain_accuracy

        try:
            if data.startswith(b"\0"):
                (self._pad / "pad.json").write_bytes(data[1:])
                read_pad_bundle(self._pad)
                return TAKEN
            (self._bundle / "manifest.json").write_bytes(data)
            bundle = read_bundle(self._bundle)
            explain_accuracy(bundle)
            for fmr in (1e-2, 1e-3, 1e-6):
                if not np.isfinite(bundle.verification_threshold(fmr)):
                    raise Defect("a threshold that is no number")
            rule = _automatic_rule(bundle, Gallery(bundle.model_id, []), 1e-3, bundle.margin(0.05))
            bundle.search_scores().threshold({1: 50, 3: 20, 9: 2000}, 1e-3)
            if not np.isfinite([rule.threshold, rule.margin]).all():
                raise Defect("a rule that is no number")
        except KioskError as error:
            return refusal(error)
        return TAKEN


def _places(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    items = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for key, value in items:
        yield from _places(value, (*path, key))


def _put(document: Any, path: tuple[Any, ...], value: Any) -> None:
    for key in path[:-1]:
        try:
            document = document[key]
        except (KeyError, IndexError, TypeError):
            return
    with contextlib.suppress(IndexError, TypeError):
        document[path[-1]] = value


class Models(Surface):
    """``model.tflite`` of a bundle with a matching hash: tried in a child, and what that lets pass runs in here."""

    name = "model"
    # A child starts, loads and runs: 0.3 s where nothing else does.
    limit_s = 5.0

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        from kiosk.opencv import cv2

        self._bundle = folder / "models" / "strange"
        self._bundle.mkdir(parents=True)
        self._manifest = json.loads((MODELS / "dlib-resnet29-int8" / "manifest.json").read_text())
        self._picture = cv2.resize(cv2.imread(str(SAMPLES / "obama2.jpg")), (150, 150))

    def seeds(self) -> list[bytes]:
        return [(MODELS / "dlib-resnet29-int8" / "model.tflite").read_bytes()]

    def damaged(self, rng: random.Random, seeds: list[bytes]) -> bytes:
        """Mostly in the tables, which tell the runtime what to do; seldom in the weights, nearly all of it."""
        data = bytearray(seeds[0])
        places = [at for at in range(0, len(data) - 64, 64) if data[at : at + 64].count(0) > 24]
        if rng.random() < 0.15:
            return mutate(bytes(data), rng)
        for _ in range(rng.choice([1, 1, 2, 4, 16])):
            at = rng.choice(places) + 4 * rng.randrange(16)
            if rng.random() < 0.5:
                data[at + rng.randrange(4)] ^= 1 << rng.randrange(8)
            else:
                data[at : at + 4] = rng.choice(
                    [0, 1, 0xFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 20]
                ).to_bytes(4, "little")
        return bytes(data)

    def check(self, data: bytes) -> str:
        from kiosk.bundle import read_bundle
        from kiosk.embedder import TfliteEmbedder
        from kiosk.trial import try_model

        (self._bundle / "model.tflite").write_bytes(data)
        manifest = self._manifest | {"tflite_sha256": hashlib.sha256(data).hexdigest()}
        (self._bundle / "manifest.json").write_text(json.dumps(manifest))
        try:
            bundle = read_bundle(self._bundle)
            try_model(bundle, self._bundle.parent, threads=1, runtime="auto")
            embedder = TfliteEmbedder(bundle, threads=1)
            embedder.embed_crop(self._picture)
        except KioskError as error:
            return refusal(error)
        return TAKEN


# The store


class Stores(Surface):
    """The SQLite file: opened as ``kiosk run`` does, then read by everything that reads; then as the commands do."""

    name = "store"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        from test_store_damage import fill

        (folder / "source").mkdir()
        fill(folder / "source" / "kiosk.db")
        self._work = folder / "work"

    def seeds(self) -> list[bytes]:
        return [(self.folder / "source" / "kiosk.db").read_bytes()]

    def mutators(self) -> tuple[Mutator, ...]:
        words = [
            b"CREATE TABLE",
            b"CREATE TRIGGER",
            b"CREATE VIEW",
            b"sqlite_",
            b"NOT NULL",
            b"\xff\xff",
            b"WITHOUT ROWID",
        ]
        return (*BYTES, _damage_page, _damage_page, splice(words))

    def check(self, data: bytes) -> str:
        from kiosk.biometrics import ModelId
        from kiosk.store import Store

        outcome = TAKEN
        for backups in (True, False):
            shutil.rmtree(self._work, ignore_errors=True)
            if backups:
                shutil.copytree(self.folder / "source", self._work)
                for left in self._work.glob("kiosk.db-*"):
                    left.unlink()
            else:
                self._work.mkdir()
            path = self._work / "kiosk.db"
            path.write_bytes(data)
            for verified in (False, True):
                try:
                    with Store.open(path, writable=verified, verified=verified) as store:
                        _read_all(store, ModelId("m"))
                except KioskError as error:
                    outcome = refusal(error)
        return outcome


def _damage_page(data: bytes, rng: random.Random) -> bytes:
    """The header of a page, a cell pointer or the beginning of a cell."""
    size = 4096
    page = rng.randrange(max(len(data) // size, 1)) * size
    at = page + rng.choice([0, 1, 3, 5, 8, 100, 12, 14]) + rng.randrange(4)
    return data[:at] + rng.randbytes(rng.choice([1, 2, 4])) + data[at + 4 :] if at < len(data) else data


def _read_all(store: Any, model: Any) -> None:
    """Each reader for itself: one that refuses keeps no other from being tried."""
    readers: list[Callable[[], object]] = [
        lambda: store.gallery(model),
        store.subjects,
        store.subject_models,
        store.attendance,
        store.rejections,
        store.unsent_events,
        store.outbox_counts,
        store.condition,
        store.verify_audit,
        store.audit_rows,
        store.last_restore,
        store.row_counts,
        store.integrity_problem,
        lambda: store.find_events("0"),
        lambda: store.next_replay(5),
        lambda: store.lend_pending(5),
        lambda: store.calibration(model),
    ]
    for reader in readers:
        try:
            reader()
        except KioskError as error:
            refusal(error)


class Evidence(Surface):
    """The evidence of one decision, as ``kiosk why`` unpacks it: damaged as it is packed, or before."""

    name = "evidence"
    made_up_share = 0.3

    def seeds(self) -> list[bytes]:
        from kiosk.packing import pack

        document = {
            "match": {"score": 0.8},
            "decision": "identified",
            "candidates": [{"subject_id": "E1", "score": 0.8}],
        }
        return [json.dumps(document).encode(), pack(document), pack({"a": "b" * 4000})]

    def strategy(self) -> SearchStrategy[bytes]:
        return json_documents(["match", "candidates", "decision", "reason", "frame_evidence", "pad"])

    def check(self, data: bytes) -> str:
        from kiosk import packing

        if data[:1] in {b"{", b"[", b'"'}:
            packer = zlib.compressobj(zdict=packing._DICTIONARY)
            data = packing._DEFLATED + packer.compress(data) + packer.flush()
        try:
            packing.unpack(data)
        except KioskError as error:
            return refusal(error)
        return TAKEN


SURFACES: dict[str, type[Surface]] = {
    surface.name: surface
    for surface in (
        Photos,
        CameraStream,
        Videos,
        Badges,
        Configurations,
        Secrets,
        Commands,
        Replays,
        Brokers,
        Manifests,
        Models,
        Stores,
        Evidence,
    )
}
