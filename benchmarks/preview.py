"""What looking costs: the time a frame takes from the picture to the decision, with the preview open and closed.

    python benchmarks/preview.py [--blocks 40] [--block-s 2] [--size 1280x720]

A person of the sample photos stands before a camera of 15 frames/s; every frame is detected, embedded and searched. A
client in another process pulls ten pictures a second (JPEG of 640 px; then raw, as the guided enrollment does). Blocks
with and without it alternate, so that whatever else the machine does hits both. Prints one JSON document; ``ratio`` is
open over closed: of the medians, and the quartiles over the pairs of neighbouring blocks. ``cpu_of_other_threads``:
while it is open, in processors, of the kiosk's process without its main thread.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import select
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from kiosk.biometrics import Box, Frame, Image
from kiosk.clip import Person, Scene, Walk, draw_frames
from kiosk.config import load
from kiosk.gallery import Gallery
from kiosk.opencv import cv2
from kiosk.pipeline import build_pipeline, build_rule
from kiosk.preview import Preview, PreviewClient, WantedPicture
from kiosk.recognition import Recognizer

FPS = 15
SAMPLE = Path(__file__).resolve().parent.parent / "kiosk" / "data" / "samples" / "obama.jpg"
FACE = Box(224, 92, 173, 173)
PICTURES = {"jpeg": WantedPicture(longest_px=640), "raw": WantedPicture(format="raw")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=40, help="of each kind")
    parser.add_argument("--block-s", type=float, default=2.0)
    parser.add_argument("--size", default="1280x720")
    parser.add_argument("--pull", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.pull:
        pull(Path(options.pull[0]), options.pull[1])
        return
    width, height = map(int, options.size.split("x"))
    with tempfile.TemporaryDirectory() as folder:
        figures = {
            kind: measure(Path(folder) / f"{kind}.sock", kind, options.blocks, options.block_s, (width, height))
            for kind in PICTURES
        }
    print(json.dumps({"size": options.size, "cpus": os.cpu_count(), **figures}, indent=1))


def pull(path: Path, kind: str) -> None:
    """The client: a line on stdin, and it pulls as fast as the kiosk gives; the next, and it hangs up."""
    print("ready", flush=True)
    while sys.stdin.readline():
        after, count = None, 0
        with PreviewClient(path) as client:
            while not select.select([sys.stdin], [], [], 0)[0]:
                answer = client.next(after=after, picture=PICTURES[kind])
                after, count = answer.header.index, count + (answer.header.index is not None)
        sys.stdin.readline()
        print(count, flush=True)


def measure(path: Path, kind: str, blocks: int, block_s: float, size: tuple[int, int]) -> dict[str, object]:
    config = load(None, {"KIOSK_STORE__PATH": str(path.with_suffix(".db"))})
    pipeline = build_pipeline(config)
    gallery = Gallery(pipeline.embedder.model_id, ())
    recognizer = Recognizer(
        detector=pipeline.detector,
        embedder=pipeline.embedder,
        gate=pipeline.gate,
        gallery=gallery,
        rule=build_rule(config, pipeline.bundle, gallery),
        same_face_score=pipeline.same_face_score,
        # Nothing is ever settled: every frame is embedded.
        window_s=1e9,
    )
    person = Person(cv2.imread(str(SAMPLE)), FACE)  # type: ignore[arg-type]
    scene = Scene(2.0, (Walk(person, x=(0.45, 0.55), face_px=(180, 200)),))
    frames = enumerate(itertools.cycle(list(draw_frames([scene], fps=FPS, size=size))))
    preview = Preview(path)
    preview.start()
    took_ms: dict[bool, list[list[float]]] = {False: [], True: []}
    rates: list[float] = []
    cpu: list[float] = []
    run_block(recognizer, preview, frames, 2.0)  # warm
    command = [sys.executable, __file__, "--pull", str(path), kind]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="ascii") as client:
        if client.stdin is None or client.stdout is None:
            raise RuntimeError("no pipes")
        client.stdout.readline()
        for _ in range(blocks):
            took_ms[False].append(run_block(recognizer, preview, frames, block_s))
            print(file=client.stdin, flush=True)
            run_block(recognizer, preview, frames, 0.3)  # it has connected
            others_s = time.process_time() - time.thread_time()
            took_ms[True].append(run_block(recognizer, preview, frames, block_s))
            others_s = time.process_time() - time.thread_time() - others_s
            print(file=client.stdin, flush=True)
            rates.append(int(client.stdout.readline()) / (block_s + 0.3))
            cpu.append(others_s / block_s)
        client.stdin.close()
    preview.stop()
    closed, opened = took_ms[False], took_ms[True]
    pairs = [statistics.median(b) / statistics.median(a) for a, b in zip(closed, opened, strict=True)]
    return {
        "closed": summarize(closed),
        "open": summarize(opened),
        "ratio": round(statistics.median(itertools.chain(*opened)) / statistics.median(itertools.chain(*closed)), 3),
        "ratio_of_pairs": [round(value, 3) for value in statistics.quantiles(pairs, n=4)],
        "pictures_per_s": round(statistics.median(rates), 1),
        "cpu_of_other_threads": round(statistics.median(cpu), 4),
    }


def run_block(
    recognizer: Recognizer, preview: Preview, frames: Iterator[tuple[int, Image]], seconds: float
) -> list[float]:
    """The daemon's loop for a while; how long each frame took, milliseconds."""
    took_ms = []
    due_s = time.monotonic()
    for _ in range(round(seconds * FPS)):
        index, image = next(frames)
        began_s = time.perf_counter()
        frame = Frame(image, time.monotonic(), index)
        reports = recognizer.process(frame)
        if preview.watched:
            preview.show(frame, reports)
        took_ms.append((time.perf_counter() - began_s) * 1000)
        due_s = max(due_s + 1 / FPS, time.monotonic())
        time.sleep(max(due_s - time.monotonic(), 0))
    return took_ms


def summarize(blocks: list[list[float]]) -> dict[str, float]:
    values = sorted(value for block in blocks for value in block)
    return {
        "frames": len(values),
        "p50_ms": round(statistics.median(values), 2),
        "p95_ms": round(values[int(len(values) * 0.95)], 2),
    }


if __name__ == "__main__":
    main()
