"""From the commit to the pin: how long it takes, how exact a pulse of the relay is, and what showing costs.

    python benchmarks/feedback.py [--events 150] [--rest-s 20] > docs/measured/feedback.json

On gpiozero's mock pins, so without what a real pin adds. ``beside_python``: while another thread computes in Python all
the time and holds the interpreter's lock as long as it can, which recognition does not. Needs the test extra.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

REPO = Path(__file__).parent.parent
sys.path.insert(0, str(REPO / "tests"))
os.environ["GPIOZERO_PIN_FACTORY"] = "mock"

import gpiozero  # noqa: E402
from test_feedback import LIGHTS, SOUNDS, event, face, problem  # noqa: E402
from test_gpio import Board, Wired, plan_of  # noqa: E402

from kiosk.signs import Plan, RelayTerms  # noqa: E402

PULSE_S = 0.3


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--events", type=int, default=150)
    parser.add_argument("--rest-s", type=float, default=20)
    arguments = parser.parse_args()
    result = {
        "events": arguments.events,
        "pulse_s": PULSE_S,
        "idle": measure_pulses(arguments.events, beside=None),
        "beside_python": measure_pulses(arguments.events, beside=compute),
        "cost": measure_cost(arguments.rest_s),
        "load_average": os.getloadavg()[0],
        "processors": os.cpu_count(),
    }
    json.dump(result, sys.stdout, indent=2)
    print()


def measure_pulses(events: int, *, beside: Callable[[threading.Event], None] | None) -> dict[str, float]:
    """Milliseconds from the call after the commit to the relay's pin, and by how much its pulse is too long."""
    board = gpiozero.Device.pin_factory = Board()
    plan = Plan(plan_of().pins, LIGHTS, SOUNDS, RelayTerms(pulse_s=PULSE_S))
    stop, chance = threading.Event(), random.Random(7)  # noqa: S311 - not for secrets
    called_s: list[float] = []
    other = None if beside is None else threading.Thread(target=beside, args=(stop,))
    with Wired(plan) as wired:
        time.sleep(0.5)
        if other is not None:
            other.start()
        for _ in range(events):
            called_s.append(time.monotonic())
            wired.feedback.accepted(event(), age_s=0.1)
            time.sleep(2 * PULSE_S + chance.random() * 0.05)
        stop.set()
        time.sleep(0.3)
    changes = board.changes("relay")
    if [level for _, level in changes] != [True, False] * events:
        raise SystemExit(f"{len(changes)} changes of the relay instead of {2 * events}: the machine is too busy")
    late_ms = sorted((on_s - at_s) * 1000 for at_s, (on_s, _) in zip(called_s, changes[::2], strict=True))
    long_ms = sorted(
        (off_s - on_s - PULSE_S) * 1000 for (on_s, _), (off_s, _) in zip(changes[::2], changes[1::2], strict=True)
    )
    return {
        "late_ms_p50": round(median(late_ms), 2),
        "late_ms_p99": round(late_ms[int(0.99 * events)], 2),
        "late_ms_max": round(late_ms[-1], 2),
        "pulse_error_ms_p50": round(median(long_ms), 2),
        "pulse_error_ms_min": round(long_ms[0], 2),
        "pulse_error_ms_max": round(long_ms[-1], 2),
    }


def compute(stop: threading.Event) -> None:
    while not stop.is_set():
        sum(number * number for number in range(10_000))


def measure_cost(rest_s: float) -> dict[str, dict[str, float]]:
    """Processor time of the whole process a second, and how often the panel looked, while this is shown."""
    costs = {}
    for name in ("nothing", "fault", "wait"):
        gpiozero.Device.pin_factory = Board()
        with Wired(plan_of()) as wired:
            looks = [0]
            look = wired.panel._look  # noqa: SLF001

            def counted(now_s: float, look=look, looks=looks) -> object:  # type: ignore[no-untyped-def] # noqa: ANN001
                looks[0] += 1
                return look(now_s)

            wired.panel._look = counted  # type: ignore[assignment] # noqa: SLF001
            time.sleep(0.5)
            if name == "fault":
                wired.feedback.tell_problems([problem("camera")])
            looks[0], before_s, began_s = 0, time.process_time(), time.monotonic()
            while (passed_s := time.monotonic() - began_s) < rest_s:
                if name == "wait":
                    wired.feedback.show([face()])
                time.sleep(1 / 15)
            costs[name] = {
                "processor_ms_per_s": round((time.process_time() - before_s) / passed_s * 1000, 2),
                "looks_per_s": round(looks[0] / passed_s, 2),
            }
    return costs


if __name__ == "__main__":
    main()
