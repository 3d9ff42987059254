"""A process that feeds inputs to one surface: ``python -m fuzz.worker SURFACE FOLDER SEED FIRST COUNT``.

One JSON line an input on what was stdout; the input in hand lies in ``FOLDER/current``, should the process die.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings

from fuzz.surfaces import SURFACES, Defect, Surface

_DEFECT_CHARS = 300


def main(arguments: list[str]) -> None:
    name, folder, number, first, count = arguments
    report = os.fdopen(os.dup(1), "w", buffering=1)
    said = _catch_output(Path(folder))
    if name not in SURFACES:
        from fuzz.broken import BROKEN

        SURFACES.update(BROKEN)
    surface = SURFACES[name](Path(folder))
    worker = _Worker(surface, Path(folder), report.write, said)
    worker.run(int(number), int(first), int(count))


def _catch_output(folder: Path) -> Path:
    """What anything writes to the terminal, native libraries too, goes to a file."""
    said = folder / "said"
    descriptor = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    return said


class _Worker:
    def __init__(self, surface: Surface, folder: Path, write: Callable[[str], object], said: Path) -> None:
        self._surface = surface
        self._current = folder / "current"
        self._write = write
        self._said = said
        self._read = 0

    def run(self, number: int, first: int, count: int) -> None:
        """Inputs ``first`` to ``count``. Each follows from its number alone, so that another worker can go on."""
        surface = self._surface
        seeds = surface.seeds()
        made_up = _make_up(surface, number, round(count * surface.made_up_share))
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        # Twice: what caches fill is no growth.
        for data in [*seeds, *seeds]:
            surface.check(data)
        self._tell(event="ready", valid_peak_kib=_memory_kib())
        for index in range(first, count):
            if index < len(made_up):
                data = made_up[index]
            else:
                data = surface.damaged(random.Random(f"{number}/{surface.name}/{index}"), seeds)  # noqa: S311
            self._try(index, data)
        self._tell(event="end")
        surface.close()

    def _try(self, index: int, data: bytes) -> None:
        self._current.write_bytes(data)
        began_s = time.perf_counter()
        outcome, defect = "defect", None
        try:
            outcome = self._surface.check(data)
        except Defect as error:
            defect = str(error)
        except Exception as error:  # noqa: BLE001 - that is what is looked for
            frames = traceback.extract_tb(error.__traceback__)
            where = next((frame for frame in reversed(frames) if "/kiosk/" in frame.filename), frames[-1])
            defect = f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno} {where.name})"
        defect = defect or self._look_at_output()
        seconds = round(time.perf_counter() - began_s, 4)
        if defect is not None or seconds > self._surface.limit_s:
            # By the time the parent reads of it another is in hand.
            self._current.replace(self._current.with_name(f"{index}"))
        self._tell(
            event="input",
            index=index,
            seconds=seconds,
            outcome=outcome,
            defect=None if defect is None else defect[:_DEFECT_CHARS],
            peak_kib=_memory_kib(),
        )

    def _look_at_output(self) -> str | None:
        """A thread that ends in a traceback tells nobody else."""
        with self._said.open("rb") as file:
            file.seek(self._read)
            text = file.read()
        self._read += len(text)
        return text[text.index(b"Traceback") :].decode(errors="replace") if b"Traceback" in text else None

    def _tell(self, **document: Any) -> None:
        self._write(json.dumps(document) + "\n")


def _make_up(surface: Surface, number: int, count: int) -> list[bytes]:
    """Hypothesis' ideas; fewer where it has no more. All before the measuring starts: its memory is not the kiosk's."""
    ideas: list[bytes] = []
    if not count:
        return ideas

    @seed(number)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(surface.strategy())
    def collect(data: bytes) -> None:
        ideas.append(data)

    collect()
    return ideas[:count]


def _memory_kib() -> int:
    """The most that has been resident since the valid inputs began."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:", 1)[1].split()[0])


if __name__ == "__main__":
    main(sys.argv[1:])
