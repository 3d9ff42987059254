"""Does it grow? The real daemon on a looped clip, watched for an hour: memory, files, threads, store, log.

    python benchmarks/soak.py [--minutes 60] [--warm-up-minutes 5] [--every-s 5] > soak.json

A visitor every 0.75 s, a real mosquitto, a subscriber; a store with some weeks in it, so that SQLite's cache (2 MiB) is
full after the warm-up. Growth is the least-squares line through the samples after the warm-up, over their whole time.
Needs the test extra and mosquitto. The story on stderr, JSON on stdout; exit code 1 when the daemon ended by itself.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

REPO = Path(__file__).parent.parent
sys.path.insert(0, str(REPO / "tests"))

from broker import Mosquitto  # noqa: E402
from command_line import Kiosk  # noqa: E402
from faults.consumer import Consumer  # noqa: E402
from faults.doors import commit_check_ins, enroll_samples, last_seq, make_door, write_visits  # noqa: E402

SAMPLES = REPO / "kiosk" / "data" / "samples"
DEVICE = "door-1"
KIB = 1024
EARLIER_EVENTS = 3000
"""In the store before the daemon starts; it sends them first."""


@dataclass(frozen=True, slots=True)
class Sample:
    """At ``minute``; sizes in KiB."""

    minute: float
    resident_kib: int
    files: int
    threads: int
    store_kib: int
    log_kib: int
    events: int


def look(pid: int, kiosk: Kiosk, log: Path, began_s: float) -> Sample:
    process = Path(f"/proc/{pid}")
    status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
    store = sum(path.stat().st_size for path in kiosk.folder.glob("kiosk.db*"))
    return Sample(
        minute=round((time.monotonic() - began_s) / 60, 2),
        resident_kib=int(status["VmRSS"].split()[0]),
        files=len(list((process / "fd").iterdir())),
        threads=int(status["Threads"]),
        store_kib=store // KIB,
        log_kib=log.stat().st_size // KIB,
        events=last_seq(kiosk.store),
    )


@contextlib.contextmanager
def running(kiosk: Kiosk, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """``kiosk run`` with its log in a file: a pipe would fill."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "kiosk", "run", "--config", str(kiosk.config)],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            cwd=REPO,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
        process.kill()
        process.wait()


def soak(folder: Path, minutes: float, every_s: float) -> tuple[list[Sample], dict[str, Any]]:
    """Samples over the time, and what the subscriber received."""
    home = folder / "home"
    home.mkdir()
    clip, log = folder / "visits.avi", folder / "log"
    write_visits(clip, SAMPLES)
    enrolled = enroll_samples(Kiosk(home, "auto"), SAMPLES)
    samples: list[Sample] = []
    with Mosquitto(folder) as broker, Consumer(broker.port) as consumer:
        kiosk = make_door(folder / DEVICE, enrolled, DEVICE, clip, broker.port, pace="realtime")
        commit_check_ins(kiosk.store, EARLIER_EVENTS, device=DEVICE)
        began_s = time.monotonic()
        with running(kiosk, log) as process:
            while time.monotonic() - began_s < minutes * 60:
                time.sleep(every_s)
                if process.poll() is not None:
                    raise SystemExit(f"the daemon ended by itself: {log.read_text()[-2000:]}")
                samples.append(look(process.pid, kiosk, log, began_s))
        time.sleep(1)
        return samples, asdict(consumer.ledger.summary())


def growth(samples: list[Sample], name: str) -> float:
    """By the straight line that fits best, from the first sample to the last."""
    minutes = np.array([sample.minute for sample in samples])
    values = np.array([getattr(sample, name) for sample in samples], np.float64)
    slope = np.polyfit(minutes, values, 1)[0]
    return float(slope * (minutes[-1] - minutes[0]))


def judge(samples: list[Sample], warm_up_minutes: float) -> dict[str, Any]:
    warm = [sample for sample in samples if sample.minute >= warm_up_minutes]
    if len(warm) < 3:
        raise SystemExit("too short: nothing is left after the warm-up")
    first, last = warm[0], warm[-1]
    return {
        "minutes_after_warm_up": round(last.minute - first.minute, 1),
        "resident_kib_first": first.resident_kib,
        "resident_kib_last": last.resident_kib,
        "resident_kib_highest": max(sample.resident_kib for sample in warm),
        "resident_growth_mib": round(growth(warm, "resident_kib") / KIB, 2),
        "files": sorted({sample.files for sample in warm}),
        "threads": sorted({sample.threads for sample in warm}),
        "events": last.events - first.events,
        "store_bytes_an_event": round((last.store_kib - first.store_kib) * KIB / max(last.events - first.events, 1)),
        "log_bytes_an_event": round((last.log_kib - first.log_kib) * KIB / max(last.events - first.events, 1)),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--warm-up-minutes", type=float, default=5.0, help="caches fill, the allocator settles")
    parser.add_argument("--every-s", type=float, default=5.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as temporary:
        samples, arrived = soak(Path(temporary), options.minutes, options.every_s)
    figures = judge(samples, options.warm_up_minutes)
    print("soak: " + ", ".join(f"{name} {value}" for name, value in figures.items()), file=sys.stderr)
    thinned = samples[:: max(1, round(60 / options.every_s))]
    print(json.dumps({**figures, "arrived": arrived, "a_minute": [asdict(sample) for sample in thinned]}, indent=1))
