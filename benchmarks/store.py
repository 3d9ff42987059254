"""What the store costs: bytes written per check-in, size, start, backups, restoring; and what a backup does to commits.

    python benchmarks/store.py --json store.json

Check-ins carry the evidence of five frames with five candidates each, as at a busy door. Events:

- ``disk``: bytes written to the block device per check-in, with its acknowledgement alone and in the publisher's
  windows of 20. An ext4 on a loop device, counted by ``/sys/block/loopN/stat``; needs root, left out otherwise.
- ``size``: the file with ``--waiting`` events that wait (seven days off-line at ten times a busy door: 20,000).
- ``start``: opening as ``kiosk run`` does, everything verified, with ``--events`` events.
- ``backup``: by the backup API in steps (what the kiosk does) and by ``VACUUM INTO``, each with what it does meanwhile
  to commits (one every 50 ms) and to a loop that wakes every 10 ms, which stands for recognition. ``verified``: with
  reading everything back, as every backup is.
- ``restore``: the same start when the first page is zeros: newest backup, and what the damaged file has beyond it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from kiosk.biometrics import Candidate, Decision, FrameEvidence, ModelId, Quality, Reason, SubjectId, Verdict
from kiosk.events import EventType, Moment, Origin
from kiosk.store import NewTemplate, Store
from kiosk.store import _backups as backups
from kiosk.store._damage import find_damage

MODEL = ModelId("facenet512-int8@0123abcd")
ORIGIN = Origin("hq", "door-1", "Europe/Berlin")
SUBJECTS = 200
NOW_MS = 1_772_438_293_412
WINDOW = 20
SECTOR_BYTES = 512


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--waiting", type=int, default=20_000)
    parser.add_argument("--check-ins", type=int, default=1000, help="for the bytes written")
    parser.add_argument("--folder", type=Path, help="on the disk to measure; a temporary one by default")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        results: dict[str, Any] = {"sqlite": sqlite3.sqlite_version}
        results["disk"] = measure_disk(folder, arguments.check_ins)
        results |= measure_large(folder, arguments.events, arguments.waiting)
    text = json.dumps(results, indent=2)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n", encoding="utf-8")


def enroll(store: Store) -> None:
    rng = np.random.default_rng(1)
    for number in range(SUBJECTS):
        embeddings = [rng.standard_normal(512).astype(np.float32) for _ in range(2)]
        store.enroll(SubjectId(f"E{number}"), [NewTemplate(MODEL, embedding) for embedding in embeddings])


def check_in(store: Store, number: int) -> int:
    rng = np.random.default_rng(number)

    def candidates() -> tuple[Candidate, ...]:
        who = rng.permutation(SUBJECTS)[:5]
        scores = sorted(rng.uniform(0.1, 0.9, 5), reverse=True)
        return tuple(Candidate(SubjectId(f"E{w}"), round(float(s), 4)) for w, s in zip(who, scores, strict=True))

    def quality() -> Quality:
        return Quality(*(round(float(value), 3) for value in rng.uniform(50, 150, 3)))

    frames = tuple(FrameEvidence(i / 10, quality(), float(rng.uniform(0.1, 1)), candidates()) for i in range(5))
    decision = Decision(Verdict.IDENTIFIED, Reason.MATCH, 0.62, candidates(), 5, quality(), 0.05, frames)
    event = store.record_check_in(
        decision,
        event_type=EventType.CHECK_IN,
        moment=Moment(NOW_MS + number, synchronized=True, boottime_ms=number, boot_id="0123456789abcdef" * 2),
        origin=ORIGIN,
        model_id=MODEL,
        gallery_size=SUBJECTS,
        threshold_source="threshold 0.62 (FPIR 0.001 with 200 subjects)",
    )
    if event is None:
        raise RuntimeError("nobody is enrolled")
    return event.seq


def fill(store: Store, first: int, count: int, *, send: bool) -> None:
    with store._reading() as db:  # noqa: SLF001 - quickly: nobody pulls the plug of a benchmark
        db.execute("PRAGMA synchronous = OFF")
    window: list[int] = []
    for number in tqdm(range(first, first + count), desc="filling", disable=None):
        window.append(check_in(store, number))
        if send and len(window) == WINDOW:
            store.mark_sent(window)
            window.clear()
    with store._reading() as db:  # noqa: SLF001
        db.execute("PRAGMA synchronous = FULL")


# --- bytes to the block device


def measure_disk(folder: Path, count: int) -> dict[str, float] | None:
    """KiB per check-in; None where that cannot be measured."""
    if os.geteuid() != 0:
        return None
    image, point = folder / "image", folder / "mnt"
    point.mkdir()
    with image.open("wb") as file:
        file.truncate(256 << 20)
    tools = {**os.environ, "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"}
    try:
        subprocess.run(["mkfs.ext4", "-q", str(image)], check=True, env=tools)
        subprocess.run(["mount", "-o", "loop,noatime", str(image), str(point)], check=True, env=tools)
    except (OSError, subprocess.CalledProcessError):
        return None
    try:
        source = subprocess.run(
            ["findmnt", "-n", "-o", "SOURCE", str(point)], check=True, capture_output=True, text=True
        )
        statistics = Path(f"/sys/block/{Path(source.stdout.strip()).name}/stat")
        return _bytes_written(point, statistics, count)
    finally:
        subprocess.run(["umount", str(point)], check=True, env=tools)
        image.unlink()


def _bytes_written(point: Path, statistics: Path, count: int) -> dict[str, float]:
    written = {}
    with Store.open(point / "kiosk.db") as store:
        enroll(store)
        for number in range(200):
            store.mark_sent([check_in(store, number)])
        for name, window in (("acknowledged one by one", 1), (f"acknowledged by {WINDOW}", WINDOW)):
            before = _sectors(statistics)
            waits_ms = []
            for number in range(0, count, window):
                seqs = []
                for one in range(window):
                    started_s = time.perf_counter()
                    seqs.append(check_in(store, number + one))
                    waits_ms.append((time.perf_counter() - started_s) * 1000)
                store.mark_sent(seqs)
            store.checkpoint()
            written[f"KiB, {name}"] = round((_sectors(statistics) - before) * SECTOR_BYTES / 1024 / count, 1)
            written |= {f"commit {key}, {name}": value for key, value in spread(waits_ms).items()}
    return written


def _sectors(statistics: Path) -> int:
    os.sync()
    return int(statistics.read_text(encoding="ascii").split()[6])


# --- a large store


def measure_large(folder: Path, events: int, waiting: int) -> dict[str, Any]:
    path = folder / "kiosk.db"
    results: dict[str, Any] = {}
    with Store.open(path) as store:
        enroll(store)
        fill(store, 0, waiting, send=False)
        store.checkpoint()
        results["size"] = {"events": waiting, "MiB": round(path.stat().st_size / 2**20, 1)}
        fill(store, waiting, events - waiting, send=True)
    results["start"] = {"events": events, "MiB": round(path.stat().st_size / 2**20, 1), **measure_start(path)}
    with Store.open(path) as store:
        results["backup"] = {
            "nothing": disturb(store, lambda: time.sleep(3)),
            "backup API in steps": disturb(store, lambda: copy_by_steps(store)),
            "backup API in steps, verified": disturb(store, lambda: take(store)),
            "VACUUM INTO": disturb(store, lambda: copy_by_vacuum(store)),
        }
        fill(store, events, 500, send=False)
    content = path.read_bytes()
    path.write_bytes(bytes(512) + content[512:])
    started_s = time.perf_counter()
    with Store.open(path, verified=True) as store:
        restored = store.restored
    if restored is None:
        raise RuntimeError("the damage was not noticed")
    results["restore"] = {"s": round(time.perf_counter() - started_s, 2), "salvaged": restored.salvaged}
    return results


def measure_start(path: Path) -> dict[str, float]:
    seconds = []
    for _ in range(3):
        started_s = time.perf_counter()
        with Store.open(path, verified=True):
            seconds.append(time.perf_counter() - started_s)
    started_s = time.perf_counter()
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA quick_check").fetchall()
    return {
        "s": round(min(seconds), 2),
        "quick_check alone s": round(time.perf_counter() - started_s, 2),
        "gallery s": measure_gallery(path),
    }


def measure_gallery(path: Path) -> float:
    with Store.open(path) as store:
        started_s = time.perf_counter()
        store.gallery(MODEL)
        return round(time.perf_counter() - started_s, 3)


def take(store: Store) -> None:
    with store.backups.alone():
        store.backups.take()


def copy_by_steps(store: Store) -> None:
    target = store.path.with_name("steps.db")
    backups._copy(store.path, target)  # noqa: SLF001 - what take() does before it verifies
    target.unlink()


def copy_by_vacuum(store: Store) -> None:
    target = store.path.with_name("vacuum.db")
    with contextlib.closing(sqlite3.connect(f"file:{store.path}?mode=ro", uri=True)) as db:
        db.execute("VACUUM INTO ?", [str(target)])
    if find_damage(target, still=True) is None:
        target.unlink()
    shutil.rmtree(target, ignore_errors=True)


@contextlib.contextmanager
def running(work: Callable[[threading.Event], None]) -> Iterator[None]:
    stop = threading.Event()
    thread = threading.Thread(target=work, args=[stop])
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def disturb(store: Store, action: Callable[[], None]) -> dict[str, float]:
    """Do it while events are committed and a loop turns; how long it took, and how long those had to wait."""
    commits_ms: list[float] = []
    lateness_ms: list[float] = []
    number = iter(range(10**6))

    def commit(stop: threading.Event) -> None:
        while not stop.wait(0.05):
            started_s = time.perf_counter()
            check_in(store, next(number))
            commits_ms.append((time.perf_counter() - started_s) * 1000)

    def tick(stop: threading.Event) -> None:
        while not stop.is_set():
            started_s = time.perf_counter()
            time.sleep(0.01)
            lateness_ms.append((time.perf_counter() - started_s) * 1000 - 10)

    with running(commit), running(tick):
        started_s = time.perf_counter()
        action()
        duration_s = time.perf_counter() - started_s
    return {
        "s": round(duration_s, 2),
        **{f"commit {key}": value for key, value in spread(commits_ms).items()},
        **{f"loop late by {key}": value for key, value in spread(lateness_ms).items()},
    }


def spread(values_ms: list[float]) -> dict[str, float]:
    p50, p99 = np.percentile(values_ms, [50, 99]) if values_ms else (0.0, 0.0)
    return {
        "p50 ms": round(float(p50), 2),
        "p99 ms": round(float(p99), 2),
        "most ms": round(max(values_ms, default=0.0), 2),
    }


if __name__ == "__main__":
    main()
