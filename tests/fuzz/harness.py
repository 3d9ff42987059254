"""Runs workers and watches them: who dies, who hangs, who grows."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from fuzz.surfaces import SURFACES

_TESTS = Path(__file__).resolve().parent.parent
_REPO = _TESTS.parent
_START_LIMIT_S = 120.0
_MOST_KEPT = 20
_BEYOND_LIMIT_S = 10.0


@dataclass(slots=True)
class Result:
    """What a surface did with its inputs."""

    surface: str
    inputs: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)
    defects: list[dict[str, Any]] = field(default_factory=list)
    """The first few: index, what happened, and the file that holds the input."""
    defect_count: int = 0
    crashes: int = 0
    hangs: int = 0
    """Inputs beyond the surface's limit."""
    limit_s: float = 2.0
    slowest_s: float = 0.0
    valid_peak_kib: int = 0
    """The most memory that the valid inputs take, one after the other."""
    growth_kib: int = 0
    """How much more the others take at most, in any worker; and whatever the kiosk has not given back."""
    seconds: float = 0.0

    @property
    def sound(self) -> bool:
        return not (self.defect_count or self.crashes or self.hangs)


class _Ended(Exception):
    """The worker has closed its output."""


def run_surface(name: str, *, folder: Path, seed: int, count: int, kept: Path | None = None) -> Result:
    """Feed ``count`` inputs that follow from ``seed``. Inputs that show a defect are copied to ``kept``."""
    result = Result(name, limit_s=SURFACES[name].limit_s)
    began_s = time.monotonic()
    first = start = 0
    while first < count:
        work = folder / f"{name}-{start}"
        work.mkdir(parents=True)
        first = _run_worker(result, work, (seed, first, count), kept)
        shutil.rmtree(work, ignore_errors=True)
        start += 1
    result.seconds = round(time.monotonic() - began_s, 1)
    return result


def _run_worker(result: Result, work: Path, numbers: tuple[int, int, int], kept: Path | None) -> int:
    """One worker's life. The number of the next input."""
    seed, first, count = numbers
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("KIOSK_", "COVERAGE_"))}
    environment |= {"PYTHONPATH": f"{_REPO}{os.pathsep}{_TESTS}", "PYTHONFAULTHANDLER": "1"}
    command = [sys.executable, "-m", "fuzz.worker", result.surface, str(work), str(seed), str(first), str(count)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, cwd=work, start_new_session=True)
    assert process.stdout is not None
    following, valid_peak_kib, ended = first, 0, False
    try:
        for document in _lines(process.stdout, result.limit_s):
            match document["event"]:
                case "ready":
                    valid_peak_kib = document["valid_peak_kib"]
                    result.valid_peak_kib = max(result.valid_peak_kib, valid_peak_kib)
                case "input":
                    following = document["index"] + 1
                    _count(result, document, valid_peak_kib, work, kept)
                case "end":
                    process.wait(30)
                    following, ended = count, True
                    break
        if not ended and not valid_peak_kib:
            raise RuntimeError(f"{result.surface}: the worker did not get ready: {_last_words(work)}")
        if not ended:
            process.wait(30)
            following = _note_end(result, f"the process died with {_how(process)}", following, work, kept)
    except TimeoutError:
        result.hangs += 1
        following = _note_end(result, "hangs", following, work, kept)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)
        process.stdout.close()
    return following


def _how(process: subprocess.Popen[bytes]) -> str:
    code = process.returncode
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _lines(stream: IO[bytes], limit_s: float) -> Any:
    """Documents as they come; TimeoutError when one takes far longer than an input may."""
    descriptor, buffer, ready = stream.fileno(), b"", False
    while True:
        wait_s = limit_s + _BEYOND_LIMIT_S if ready else _START_LIMIT_S
        if not select.select([descriptor], [], [], wait_s)[0]:
            raise TimeoutError
        data = os.read(descriptor, 1 << 16)
        if not data:
            return
        *lines, buffer = (buffer + data).split(b"\n")
        ready = ready or bool(lines)
        yield from map(json.loads, lines)


def _count(result: Result, document: dict[str, Any], valid_peak_kib: int, work: Path, kept: Path | None) -> None:
    result.inputs += 1
    outcome = document["outcome"]
    result.outcomes[outcome] = result.outcomes.get(outcome, 0) + 1
    result.slowest_s = max(result.slowest_s, document["seconds"])
    result.growth_kib = max(result.growth_kib, document["peak_kib"] - valid_peak_kib)
    if document["seconds"] > result.limit_s:
        result.hangs += 1
        _keep(result, document["index"], f"took {document['seconds']} s", work, kept)
    if document["defect"] is not None:
        result.defect_count += 1
        _keep(result, document["index"], document["defect"], work, kept)


def _note_end(result: Result, what: str, index: int, work: Path, kept: Path | None) -> int:
    """A worker ended with the input ``index`` in hand."""
    if what != "hangs":
        result.crashes += 1
        what = f"{what}: {_last_words(work)}"
    result.inputs += 1
    _keep(result, index, what, work, kept)
    return index + 1


def _last_words(work: Path) -> str:
    said = work / "said"
    return " | ".join(said.read_text(errors="replace").splitlines()[-8:]) if said.exists() else ""


def _keep(result: Result, index: int, what: str, work: Path, kept: Path | None) -> None:
    if len(result.defects) >= _MOST_KEPT:
        return
    file = None
    source = next((path for path in (work / str(index), work / "current") if path.exists()), None)
    if kept is not None and source is not None:
        kept.mkdir(parents=True, exist_ok=True)
        file = kept / f"{result.surface}-{index}"
        shutil.copyfile(source, file)
    result.defects.append({"index": index, "what": what, "file": None if file is None else file.name})
