"""A model from elsewhere is tried out in a process of its own before the kiosk loads it into its own.

A bundle's hash says that its files belong together, not who made them. A TFLite file is trusted by the runtime that
reads it: tflite-runtime 2.14 ends in a segmentation fault on half of all damaged ones, and a well-formed one can ask
for all memory there is, or compute for ever. What a child process has survived once, with the same manifest, files and
runtime, is not tried again. The same child asks the model for what the kiosk knows the answers to
(:mod:`kiosk.selftest`), so that models are found, too, which run and recognize nobody. It is no sandbox: whoever can
exploit the runtime has exploited it in the child.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import resource
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Literal, cast

import numpy as np

from kiosk import __version__
from kiosk.biometrics import Box, Face
from kiosk.bundle import Bundle, read_bundle
from kiosk.embedder import TfliteEmbedder
from kiosk.errors import KioskError, ModelError
from kiosk.files import replace_beside
from kiosk.pad import PadBundle, TflitePad, read_pad_bundle
from kiosk.selftest import examine_bundle, examine_pad, find_samples
from kiosk.tflite import Runtime, runtime_version

VERDICTS = ".tried.json"
"""In the models folder: what has been survived, by the digest of :func:`_key`."""

Kind = Literal["embedder", "pad"]

# A Raspberry Pi needs some seconds for the largest; this is for what never ends.
_TIMEOUT_S = 60.0
# Of private memory, used or not: FaceNet in float32, the largest there is, asks for 0.3 GiB with four threads.
_MAX_DATA_BYTES = 1 << 30
_MAX_WRITTEN = 1 << 20
_MAX_VERDICTS = 32
_MAX_VERDICTS_BYTES = 16 * 1024
_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH
_TRIAL_PX = 160
_AGAIN = "build or install the bundle again"


def try_model(
    bundle: Bundle | PadBundle, models_folder: Path, *, threads: int, runtime: Runtime, again: bool = False
) -> None:
    """See that a bundle's networks load, run and know what they must, unless they are the kiosk's own or did before.

    ``again``: whatever they did before, and whose they are.

    Raises:
        ModelError: they do not, or the process that tried them died, hung or wanted too much memory.
    """
    if isinstance(bundle, Bundle) and bundle.built_in and not again:
        return
    verdicts = models_folder / VERDICTS
    key = _key(bundle, runtime)
    survived = _read_verdicts(verdicts)
    if key in survived and not again:
        return
    others = [verdict for verdict in survived if verdict != key]
    try:
        _run_child("embedder" if isinstance(bundle, Bundle) else "pad", bundle.folder, threads, runtime)
    except ModelError:
        if key in survived:
            _write_verdicts(verdicts, others)
        raise
    _write_verdicts(verdicts, [*others, key])


def _key(bundle: Bundle | PadBundle, runtime: Runtime) -> str:
    """Of everything the verdict depends on; the manifest holds the hashes of the files, which have been compared.

    The kiosk's own version is among it, for what prepares the pictures comes with it.
    """
    text = f"{__version__}\n{runtime_version(runtime)}\n{bundle.manifest.model_dump_json()}"
    return hashlib.sha256(text.encode()).hexdigest()


def _run_child(kind: Kind, folder: Path, threads: int, runtime: Runtime) -> None:
    # -P: whatever lies in the current folder is not imported.
    command = [sys.executable, "-P", "-m", "kiosk.trial", kind, str(folder.absolute()), str(threads), runtime]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    try:
        child = subprocess.run(  # noqa: S603 - this very program
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise ModelError(f"{folder}: the model hangs: no answer in {_TIMEOUT_S:.0f} s; {_AGAIN}") from None
    except OSError as error:
        raise ModelError(f"{folder}: cannot be tried out: {error.strerror}") from error
    if child.returncode < 0:
        number = -child.returncode
        name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
        raise ModelError(f"{folder}: the model crashes the runtime ({name}); {_AGAIN}")
    if child.returncode != 0:
        told = child.stdout.decode(errors="replace").strip().splitlines()
        raise ModelError(told[-1] if told else f"{folder}: the model cannot be used; {_AGAIN}")


def _read_verdicts(path: Path) -> list[str]:
    """What has been survived; nothing where anybody but this user and root may have written it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            about = os.fstat(descriptor)
            if about.st_uid not in {0, os.geteuid()} or about.st_mode & _WRITABLE_BY_OTHERS:
                return []
            found = json.loads(file.read(_MAX_VERDICTS_BYTES))
    except (OSError, ValueError, RecursionError):
        return []
    return [key for key in found if isinstance(key, str)] if isinstance(found, list) else []


def _write_verdicts(path: Path, survived: list[str]) -> None:
    """Where this user may not write, the next start tries again."""
    with contextlib.suppress(OSError):
        replace_beside(path, json.dumps(survived[-_MAX_VERDICTS:]).encode())


# In the child


def main(arguments: list[str]) -> int:
    """``KIND FOLDER THREADS RUNTIME``: 0, or 69 with the reason on stdout."""
    _limit()
    kind, folder, threads, runtime = arguments
    try:
        _exercise(Path(folder), kind, int(threads), cast("Runtime", runtime))
    except KioskError as error:
        print(error)  # noqa: T201 - for the parent
        return error.exit_code
    except Exception as error:  # noqa: BLE001 - whatever a strange model makes the code around it do
        print(f"{folder}: the model cannot be used: {type(error).__name__}: {error}; {_AGAIN}")  # noqa: T201
        return ModelError.exit_code
    return 0


def _limit() -> None:
    _, most_cpu_s = resource.getrlimit(resource.RLIMIT_CPU)
    limits = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: _MAX_WRITTEN,
        resource.RLIMIT_DATA: _MAX_DATA_BYTES,
        resource.RLIMIT_CPU: round(_TIMEOUT_S) if most_cpu_s == resource.RLIM_INFINITY else most_cpu_s,
    }
    for which, value in limits.items():
        # A limit that is lower already stays.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(which, (value, value))
    # Should memory run out all the same, it is this process that goes.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


def _exercise(folder: Path, kind: str, threads: int, runtime: Runtime) -> None:
    """Everything the daemon does with it, on two pictures of nobody and on the sample photos."""
    pictures = [
        np.full((_TRIAL_PX, _TRIAL_PX, 3), 128, np.uint8),
        np.random.default_rng(1).integers(0, 256, (_TRIAL_PX, _TRIAL_PX, 3), np.uint8),
    ]
    if kind == "pad":
        pad_bundle = read_pad_bundle(folder)
        pad = TflitePad(pad_bundle, threads=threads, runtime=runtime)
        face = Face(Box(50, 50, 60, 60), 1.0)
        for picture in pictures:
            pad.score(picture, face)
        examine_pad(pad_bundle, pad, find_samples(runtime))
        return
    bundle = read_bundle(folder)
    embedder = TfliteEmbedder(bundle, threads=threads, runtime=runtime)
    for picture in pictures:
        embedder.embed_crop(np.resize(picture, (embedder.size_px, embedder.size_px, 3)))
    examine_bundle(bundle, embedder, find_samples(runtime))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
