"""What the kiosk costs while nobody is there, and whether anybody waits for it.

    python benchmarks/idle.py cpu [--minutes 2] --out idle.json
    python benchmarks/idle.py visits LFW_FOLDER [--visits 20] --out idle.json
    python benchmarks/idle.py rest --out idle.json

Each writes its part of the file, and leaves the others as they are.

``cpu``: two daemons (``kiosk run``, a real mosquitto) side by side on a camera of 1280 × 720 and 15 pictures a second,
one with ``idle.enabled: false``. The camera is another process, whose time does not count. Percent of one processor,
from /proc, in blocks of five seconds (of thirty with visits): quartiles over the blocks. ``http``: an MJPEG stream on
loopback, as the kiosk reads it. ``usb``, ``yuyv``: what OpenCV's V4L2 does with a camera's JPEGs, and with raw pictures
of 640 × 480, imitated in the daemon's process; the kernel's and the USB's part is missing. ``visits``: the stream with
somebody who stays for three seconds of thirty, and a check-in each time.

``visits``: drawn people (LFW's layout, one folder a person) come into a scene that has been empty until the kiosk was
idle. The real detector, embedder and recognizer, in the pictures' own time: as if recognizing took none. The same JPEGs
go to a kiosk that looks at all of them. Times count from the first picture of the visit. ``added_s``: how much later
the check-in is, where both have one; ``missed``: only the other one has it.

``rest``: how many pictures a second are decoded whole in scenes where nobody is, and for how much of the time the
kiosk is idle.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import json
import multiprocessing
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

REPO = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPO / "tests"))

from broker import Mosquitto  # noqa: E402
from command_line import Kiosk  # noqa: E402
from mjpeg import MjpegServer, as_part  # noqa: E402

import kiosk.camera  # noqa: E402
from kiosk import cli  # noqa: E402
from kiosk.attention import Attention  # noqa: E402
from kiosk.biometrics import Box, Frame, Image, SubjectId, Template, Verdict  # noqa: E402
from kiosk.camera._sources import DecodingCapture  # noqa: E402
from kiosk.clip import Person, Scene, Walk, draw_frames  # noqa: E402
from kiosk.config import load  # noqa: E402
from kiosk.encoded import decode_frame, decode_glance  # noqa: E402
from kiosk.gallery import Gallery  # noqa: E402
from kiosk.opencv import cv2  # noqa: E402
from kiosk.photo import read_photo  # noqa: E402
from kiosk.pipeline import build_pipeline, build_recognizer  # noqa: E402
from kiosk.recognition import Recognizer  # noqa: E402
from kiosk.store import Store  # noqa: E402

FPS = 15
SIZE = (1280, 720)
SAMPLES = REPO / "kiosk" / "data" / "samples"
OBAMA = (SAMPLES / "obama2.jpg", Box(115, 181, 181, 181))
NOISE = 3.0
"""Standard deviation of the scene's sensor noise, grey levels, besides the 2 that a drawn clip has."""
QUALITY = 85
BLOCK_S = 5.0
LOAD_BLOCK_S = 30.0
AFTER_S = 5.0
VISIT_AFTER_S = 2.0
"""Sooner idle than a kiosk is by default: that is the harder case."""
TICK_S = 1 / os.sysconf("SC_CLK_TCK")

Figures = dict[str, Any]


# What a camera sends


class Grain:
    """Coloured noise, other in each picture."""

    def __init__(self, noise: float = NOISE, seed: int = 1) -> None:
        self._random = np.random.default_rng(seed)
        self._grain = self._random.normal(0, noise, (SIZE[1] + 256, SIZE[0] + 256, 3)).astype(np.int16)

    def on(self, image: Image) -> Image:
        top, left = self._random.integers(0, 256, 2)
        grain = self._grain[top : top + SIZE[1], left : left + SIZE[0]]
        return cv2.add(image, grain, dtype=cv2.CV_8U)  # type: ignore[return-value]


def grained(frames: Iterable[Image], *, noise: float = NOISE) -> Iterator[Image]:
    return map(Grain(noise).on, frames)


def encode(image: Image) -> bytes:
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()


def empty_scene(seconds: float) -> list[bytes]:
    return [encode(image) for image in grained(draw_frames([Scene(seconds)], fps=FPS, size=SIZE))]


def scene_with_visits() -> list[bytes]:
    """Half a minute, three seconds of it with somebody."""
    person = Person(read_photo(OBAMA[0]), OBAMA[1])
    walk = Walk(person, x=(0.4, 0.55), face_px=(170, 210))
    visit = [encode(image) for image in grained(draw_frames([Scene(3.0, (walk,))], fps=FPS, size=SIZE))]
    return visit + list(itertools.islice(itertools.cycle(empty_scene(4.0)), 27 * FPS))


class Playing(MjpegServer):
    """Sends the same pictures again and again."""

    def __init__(self, jpegs: Sequence[bytes]) -> None:
        super().__init__(fps=FPS)
        self._parts = [as_part(jpeg) for jpeg in jpegs]

    def _part(self) -> bytes:
        return self._parts[self._next_number() % len(self._parts)]


def serve(kind: str) -> None:
    """In a process of its own: the port on stdout, until stdin ends. One server a client, for each counts on."""
    jpegs = scene_with_visits() if kind == "visits" else empty_scene(4.0)
    with Playing(jpegs) as one, Playing(jpegs) as two:
        print(one.url, two.url, flush=True)
        sys.stdin.read()


class ImitatedDevice:
    """What OpenCV's V4L2 capture does with a camera's pictures, without the camera."""

    def __init__(self, kind: str) -> None:
        jpegs = empty_scene(2.0)
        if kind == "usb":
            buffers: Sequence[Any] = [np.frombuffer(jpeg, np.uint8) for jpeg in jpegs]
            self._convert: Callable[[Any], Any] = lambda buffer: cv2.imdecode(buffer, cv2.IMREAD_COLOR)
        else:
            images = [cv2.resize(cv2.imdecode(np.frombuffer(j, np.uint8), 1), (640, 480)) for j in jpegs]
            buffers = [cv2.cvtColor(image, cv2.COLOR_BGR2YUV_YUYV) for image in images]
            self._convert = lambda buffer: cv2.cvtColor(buffer, cv2.COLOR_YUV2BGR_YUYV)
        self._buffers = itertools.cycle(buffers)
        self._buffer: Any = None
        self._due_s = time.monotonic()

    def grab(self) -> bool:
        self._due_s = max(self._due_s + 1 / FPS, time.monotonic())
        time.sleep(max(self._due_s - time.monotonic(), 0))
        self._buffer = next(self._buffers)
        return True

    def retrieve(self) -> tuple[bool, Any]:
        return True, self._convert(self._buffer)

    def release(self) -> None:
        pass


class ImitatedSource:
    name = "imitated device"

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def open(self) -> DecodingCapture:
        return DecodingCapture(ImitatedDevice(self._kind))  # type: ignore[arg-type]

    def explain(self, waited_s: float) -> str:  # noqa: ARG002
        return "cannot be opened"


# The daemon, and what it costs


def run_daemon(config: str, names: str, device: str) -> None:
    """``kiosk run``, which writes down after a while what its threads are called."""
    if device:
        kiosk.camera._live_source = lambda *_: ImitatedSource(device)  # type: ignore[assignment] # noqa: SLF001

    def write_names() -> None:
        named = {str(thread.native_id): thread.name for thread in threading.enumerate()}
        Path(names).write_text(json.dumps(named), encoding="utf-8")

    timer = threading.Timer(8.0, write_names)
    timer.daemon = True
    timer.start()
    sys.exit(cli.run(["run", "--config", config]))


def thread_times_s(pid: int) -> dict[str, float]:
    """Processor time of each thread so far, by its number."""
    times = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            fields = (task / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            times[task.name] = (int(fields[11]) + int(fields[12])) * TICK_S
    return times


@contextlib.contextmanager
def running(folder: Path, home: Kiosk, name: str, source: str, port: int, *, idle: bool, device: str) -> Iterator[Any]:
    """A daemon with people enrolled; its process and where the names of its threads will be."""
    door = folder / name
    door.mkdir()
    own = Kiosk(door, "auto")
    for path in home.folder.glob("kiosk.db*"):
        (door / path.name).write_bytes(path.read_bytes())
    own.configure(
        device={"id": name},
        camera={"source": source},
        idle={"enabled": idle, "after_s": AFTER_S},
        match={"refractory_s": 4},
        mqtt={"enabled": True, "host": "127.0.0.1", "port": port},
    )
    names = door / "threads.json"
    command = [sys.executable, __file__, "--daemon", str(own.config), str(names), device]
    with (door / "log").open("wb") as log, subprocess.Popen(command, stderr=log, cwd=REPO) as process:
        try:
            yield process, names, own
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)


def measure_cpu(kind: str, seconds: float, block_s: float) -> Figures:
    """Both daemons at the same time, on the same kind of camera."""
    device = kind if kind in {"usb", "yuyv"} else ""
    with tempfile.TemporaryDirectory(prefix="idle-") as temporary, contextlib.ExitStack() as stack:
        folder = Path(temporary)
        home = folder / "home"
        home.mkdir()
        enrolled = Kiosk(home, "auto")
        result = enrolled("enroll", "obama", SAMPLES / "obama.jpg")
        if result.returncode != 0:
            raise SystemExit(result.stderr)
        broker = stack.enter_context(Mosquitto(folder))
        server = stack.enter_context(
            subprocess.Popen(
                [sys.executable, __file__, "--serve", "visits" if kind == "visits" else "empty"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                encoding="ascii",
            )
        )
        if server.stdin is None or server.stdout is None:
            raise RuntimeError("no pipes")
        stack.callback(server.stdin.close)
        urls = server.stdout.readline().split()
        daemons = {
            mode: stack.enter_context(
                running(folder, enrolled, mode, url, broker.port, idle=mode == "idle", device=device)
            )
            for mode, url in zip(("always", "idle"), urls, strict=True)
        }
        # Up, its models warm, and idle.
        time.sleep(12 + AFTER_S)
        blocks: dict[str, list[dict[str, float]]] = {mode: [] for mode in daemons}
        before = {mode: count_check_ins(own) for mode, (_, _, own) in daemons.items()}
        for _ in range(round(seconds / block_s)):
            started_s = time.monotonic()
            first = {mode: thread_times_s(process.pid) for mode, (process, _, _) in daemons.items()}
            time.sleep(block_s)
            passed_s = time.monotonic() - started_s
            for mode, (process, names, _) in daemons.items():
                spent = thread_times_s(process.pid)
                blocks[mode].append(
                    by_thread(first[mode], spent, json.loads(names.read_text(encoding="utf-8")), process.pid, passed_s)
                )
        check_ins = {mode: count_check_ins(own) - before[mode] for mode, (_, _, own) in daemons.items()}
        return {
            mode: {name: quartiles([one.get(name, 0.0) for one in values]) for name in sorted(set().union(*values))}
            | ({"check_ins": check_ins[mode]} if kind == "visits" else {})
            for mode, values in blocks.items()
        }


def count_check_ins(own: Kiosk) -> int:
    with Store.open(own.store, writable=False) as store:
        return len(store.attendance())


def by_thread(
    first: dict[str, float], last: dict[str, float], names: dict[str, str], pid: int, passed_s: float
) -> dict[str, float]:
    """Percent of one processor."""
    shares: dict[str, float] = {"all": 0.0}
    for number, spent_s in last.items():
        share = 100 * (spent_s - first.get(number, 0.0)) / passed_s
        known = names.get(number, "native")
        name = "main" if number == str(pid) else known if known in {"camera", "native"} else "others"
        shares[name] = shares.get(name, 0.0) + share
        shares["all"] += share
    return shares


def quartiles(values: Sequence[float]) -> list[float]:
    if len(values) < 2:
        return [round(value, 2) for value in values]
    return [round(value, 2) for value in statistics.quantiles(values, n=4)]


# Who waits


SCENES = ("walks", "runs", "slow", "stands up", "far", "dark", "dark and far", "flicker", "exposure", "fades in")


def draw_visit(kind: str, person: Person, random: np.random.Generator) -> list[Image]:
    """From the first picture in which the person is, or comes in at the rim, to when they have been there for long."""
    side = float(random.choice([-1.0, 1.0]))
    x, size = 0.5 + side * float(random.uniform(0.0, 0.15)), float(random.uniform(150, 230))
    out = 0.5 + side * 0.62
    still = Scene(2.0, (Walk(person, (x, x), (0.45, 0.45), (size, size)),))
    match kind:
        case "runs":
            scenes = [
                Scene(random.uniform(0.8, 1.2), (Walk(person, (out, 1 - out), face_px=(size, size)),)),
                Scene(1.5),
            ]
        case "slow":
            scenes = [Scene(8.0, (Walk(person, (x, x + 0.03), (0.42, 0.45), (70, size)),)), still]
        case "stands up":
            scenes = [Scene(random.uniform(0.7, 1.5), (Walk(person, (x, x), (1.2, 0.45), (size, size)),)), still]
        case "far" | "dark and far":
            near = float(random.uniform(95, 115))
            scenes = [Scene(5.0, (Walk(person, (out, 1 - out), face_px=(near, near)),)), Scene(1.0)]
        case "fades in":
            scenes = [Scene(6.0, (Walk(person, (x, x), face_px=(size, size)),)), still]
        case _:
            scenes = [
                Scene(random.uniform(1.2, 2.5), (Walk(person, (out, x), (0.45, 0.45), (size * 0.7, size)),)),
                still,
            ]
    return list(draw_frames(scenes, fps=FPS, size=SIZE))


LAMP = np.clip(1 - np.hypot(*np.meshgrid(np.linspace(-1.2, 0.8, SIZE[0]), np.linspace(-0.2, 1, SIZE[1]))), 0, 1).astype(
    np.float32
)[..., None]
"""Where the flickering lamp shines: the left upper part, ever less."""


def light(kind: str, frames: list[Image], from_s: float, random: np.random.Generator) -> Iterator[Image]:
    """The scene's light, and the camera's exposure; ``from_s``: the time of the first frame."""
    if kind not in {"dark", "dark and far", "flicker", "exposure", "fades in"}:
        yield from frames
        return
    empty = frames[0].astype(np.float32)
    for number, image in enumerate(frames):
        frame = image.astype(np.float32)
        now_s = from_s + number / FPS
        match kind:
            case "dark" | "dark and far":
                frame *= 0.3 if kind == "dark" else 0.45
            case "flicker":
                frame *= 1 + 0.25 * LAMP * float(random.uniform(-1, 1))
            case "exposure":
                # Step by step, as cameras do, for as long as somebody is there.
                frame *= 1 - 0.05 * min(max(round(now_s * 4), 0), 5)
            case "fades in":
                share = min(max(now_s / 5, 0), 1)
                frame = empty + (frame - empty) * share
        yield np.clip(frame, 0, 255).astype(np.uint8)


class Watcher:
    """A kiosk in the pictures' own time: which of them are decoded, when somebody has checked in."""

    def __init__(self, recognizer: Recognizer, attention: Attention | None) -> None:
        self._recognizer = recognizer
        self._attention = attention
        self.checked_in_s: float | None = None
        self.whole = 0
        self.idle_before = False

    def see(self, jpeg: Callable[[], bytes], now_s: float) -> None:
        attention = self._attention
        if attention is not None:
            if attention.glance_due(now_s):
                glance = decode_glance(jpeg())
                if glance is None:
                    raise RuntimeError("a damaged picture")
                attention.glance(glance, now_s)
            if not attention.wants(now_s):
                return
        image = decode_frame(jpeg())
        if image is None:
            raise RuntimeError("a damaged picture")
        self.whole += 1
        reports = self._recognizer.process(Frame(image, now_s, 0))
        if attention is not None:
            attention.saw((report.track_id for report in reports), now_s)
        found = any(report.final and report.decision.verdict is Verdict.IDENTIFIED for report in reports)
        if found and self.checked_in_s is None:
            self.checked_in_s = now_s


class Stage:
    """Everything a process needs to play visits: built once. Whoever walks was enrolled with the same photo, for it is
    not the recognizer that is measured.
    """

    def __init__(self, people: Sequence[Path]) -> None:
        self.config = load(None, {"KIOSK_STORE__PATH": "/nonexistent/kiosk.db"})
        self.pipeline = build_pipeline(self.config)
        model = self.pipeline.embedder.model_id
        templates, self.people = [], []
        for path in people:
            photo = read_photo(path)
            faces = self.pipeline.photo_detector.detect(photo)
            if faces:
                subject = SubjectId(path.parent.name)
                templates.append(Template(subject, model, self.pipeline.embedder.embed(photo, faces[0])))
                self.people.append(Person(photo, faces[0].box))
        self.gallery = Gallery(model, templates)

    def watcher(self, attention: Attention | None) -> Watcher:
        return Watcher(build_recognizer(self.config, self.pipeline, self.gallery), attention)

    def play(self, kind: str, number: int) -> Figures:
        """One visit: when each of the two kiosks had a check-in, seconds after the person came in."""
        random = np.random.default_rng([SCENES.index(kind), number])
        person = self.people[number % len(self.people)]
        # Idle for a while that is no multiple of anything.
        lead_s = VISIT_AFTER_S + 1.5 + float(random.uniform(0, 1.6))
        visit = draw_visit(kind, person, random)
        before = round(lead_s * FPS)
        nobody = list(itertools.islice(itertools.cycle(draw_frames([Scene(1.0)], fps=FPS, size=SIZE)), before))
        lit = light(kind, nobody + visit, -before / FPS, random)
        grain = Grain(6.0 if kind.startswith("dark") else NOISE, number)
        attention = Attention(after_s=VISIT_AFTER_S)
        always, sparing = self.watcher(None), self.watcher(attention)
        idle = False
        for index, image in enumerate(lit):
            now_s = (index - before) / FPS
            jpeg = functools.cache(functools.partial(lambda image: encode(grain.on(image)), image))
            if index == before:
                idle = attention.idle
            # Nobody is there yet whom the other could find.
            if index >= before - FPS:
                always.see(jpeg, now_s)
            sparing.see(jpeg, now_s)
            if always.checked_in_s is not None and sparing.checked_in_s is not None:
                break
        return {"kind": kind, "idle": idle, "always_s": always.checked_in_s, "idle_s": sparing.checked_in_s}


_stage: Stage | None = None


def set_stage(people: Sequence[Path]) -> None:
    global _stage  # noqa: PLW0603 - one a process
    cv2.setNumThreads(1)
    _stage = Stage(people)


def play(visit: tuple[str, int]) -> Figures:
    if _stage is None:
        raise RuntimeError("no stage")
    return _stage.play(*visit)


def play_visits(lfw: Path, count: int, processes: int) -> Figures:
    folders = sorted(folder for folder in lfw.iterdir() if folder.is_dir())
    people = [photos[0] for folder in folders if (photos := sorted(folder.glob("*.jpg")))][:60]
    wanted = [(kind, number) for kind in SCENES for number in range(count)]
    with multiprocessing.get_context("spawn").Pool(processes, set_stage, (people,)) as pool:
        played = []
        for one in pool.imap_unordered(play, wanted):
            played.append(one)
            print(f"{len(played)}/{len(wanted)}", end="\r", file=sys.stderr)
    return {kind: judge([one for one in played if one["kind"] == kind]) for kind in SCENES} | {
        "all": judge(played),
        "people": len(people),
    }


def judge(played: Sequence[Figures]) -> Figures:
    both = [one for one in played if one["always_s"] is not None and one["idle_s"] is not None]
    added = sorted(one["idle_s"] - one["always_s"] for one in both)
    return {
        "visits": len(played),
        "idle_when_they_came": sum(one["idle"] for one in played),
        "checked_in_always": sum(one["always_s"] is not None for one in played),
        "checked_in_idle": sum(one["idle_s"] is not None for one in played),
        "missed": sum(one["idle_s"] is None and one["always_s"] is not None for one in played),
        "always_s": summarize([one["always_s"] for one in both]),
        "added_s": summarize(added),
    }


def summarize(values: Sequence[float]) -> Figures | None:
    if not values:
        return None
    ordered = sorted(values)
    return {
        "median": round(statistics.median(ordered), 3),
        "p95": round(ordered[min(int(len(ordered) * 0.95), len(ordered) - 1)], 3),
        "worst": round(ordered[-1], 3),
    }


# Rest


def empty_scenes(seconds: float) -> dict[str, Callable[[], Iterator[Image]]]:
    """Scenes without anybody, by name."""
    count = round(seconds * FPS)

    def room() -> Iterator[Image]:
        return itertools.islice(itertools.cycle(list(draw_frames([Scene(2.0)], fps=FPS, size=SIZE))), count)

    def changed(change: Callable[[float, np.random.Generator], Any], noise: float = NOISE) -> Iterator[Image]:
        random = np.random.default_rng(5)
        lit = (
            np.clip(frame * change(number / FPS, random), 0, 255).astype(np.uint8)
            for number, frame in enumerate(room())
        )
        return grained(lit, noise=noise)

    def step(now_s: float, _: np.random.Generator) -> float:
        return 1.0 if int(now_s / 7) % 2 else 0.8

    def bands(now_s: float, _: np.random.Generator) -> NDArray[np.float32]:
        rows = np.linspace(0, 4 * np.pi, SIZE[1], dtype=np.float32)
        return (1 + 0.06 * np.sin(rows + 2 * np.pi * 1.7 * now_s))[:, None, None].astype(np.float32)

    return {
        "noise": lambda: changed(lambda *_: 1.0),
        "much noise": lambda: changed(lambda *_: 1.0, noise=12.0),
        "dark": lambda: changed(lambda *_: 0.2, noise=6.0),
        "clouds": lambda: changed(lambda t, _: 0.85 + 0.15 * np.sin(2 * np.pi * t / 20) * (0.5 + LAMP)),
        "exposure steps": lambda: changed(step),
        "flickering lamp": lambda: changed(lambda _, random: 1 + 0.25 * LAMP * float(random.uniform(-1, 1))),
        "mains flicker": lambda: changed(bands),
    }


def rest(seconds: float = 90.0, learning_s: float = 30.0) -> Figures:
    """Pictures decoded whole a second, once what the scene does has been learned."""
    figures = {}
    for name, frames in empty_scenes(seconds).items():
        attention = Attention(after_s=AFTER_S)
        whole = idle = seen = 0
        for number, image in enumerate(frames()):
            now_s = number / FPS
            jpeg = encode(image)
            if attention.glance_due(now_s):
                glance = decode_glance(jpeg)
                if glance is not None:
                    attention.glance(glance, now_s)
            wanted = attention.wants(now_s)
            if now_s >= learning_s:
                seen, whole, idle = seen + 1, whole + wanted, idle + attention.idle
        figures[name] = {"whole_per_s": round(whole * FPS / seen, 2), "idle_share": round(idle / seen, 3)}
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["cpu", "visits", "rest"], nargs="?")
    parser.add_argument("lfw", type=Path, nargs="?")
    parser.add_argument("--minutes", type=float, default=2.0, help="of each kind of camera")
    parser.add_argument("--visits", type=int, default=20, help="of each kind")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("idle.json"))
    parser.add_argument("--daemon", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.daemon:
        run_daemon(*options.daemon)
    if options.serve:
        serve(options.serve)
        return
    figures: Figures = {"machine": f"{platform.machine()}, {os.cpu_count()} processors"}
    match options.what:
        case "cpu":
            figures["load_before"] = round(os.getloadavg()[0], 1)
            for kind in ("http", "usb", "yuyv", "visits"):
                block_s = LOAD_BLOCK_S if kind == "visits" else BLOCK_S
                figures[kind] = measure_cpu(kind, options.minutes * 60, block_s)
        case "visits" if options.lfw is not None:
            figures |= play_visits(options.lfw, options.visits, options.processes)
        case "rest":
            figures |= rest()
        case _:
            parser.error("what to measure, and where the photos of visits are")
    parts = json.loads(options.out.read_text(encoding="utf-8")) if options.out.exists() else {}
    options.out.write_text(json.dumps(parts | {options.what: figures}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
