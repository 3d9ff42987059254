"""What encryption costs: the gallery loaded with and without it, an erasure with its change of the key.

    python benchmarks/encryption.py [--templates 10000] [--dim 512] [--repeat 5]

Everything in one run, on one machine, with real files; prints one JSON document.
"""

from __future__ import annotations

import argparse
import json
import platform
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from kiosk.biometrics import ModelId, SubjectId
from kiosk.store import NewTemplate, Store
from kiosk.store._stale import note_stale

MODEL = ModelId("benchmark@000000")
PER_SUBJECT = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--templates", type=int, default=10_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kiosk.db"
        fill(path, options.templates, options.dim)
        figures = measure(path, options.repeat)
    machine = f"{platform.machine()}, {_cpu()}, Linux {platform.release()}, SQLite {sqlite3.sqlite_version}"
    print(json.dumps({"templates": options.templates, "dim": options.dim, **figures, "machine": machine}, indent=1))


def fill(path: Path, templates: int, dim: int) -> None:
    rng = np.random.default_rng(5)
    with Store.open(path) as store:
        for number in range(templates // PER_SUBJECT):
            rows = rng.standard_normal((PER_SUBJECT, dim)).astype(np.float32)
            rows /= np.linalg.norm(rows, axis=1, keepdims=True)
            store.enroll(SubjectId(f"P{number}"), [NewTemplate(MODEL, row) for row in rows])


def measure(path: Path, repeat: int) -> dict[str, float]:
    with Store.open(path) as store:
        store.gallery(MODEL)
        rows = store._rows("SELECT * FROM templates")  # noqa: SLF001 - what templates() reads, without decrypting it
        key = store.keys.read().current
        encrypted_ms = _median_ms(lambda: store.gallery(MODEL), repeat)
        decrypting_ms = _median_ms(lambda: [key.unseal(row["embedding"], row) for row in rows], repeat)
        removals = iter(range(repeat))
        removal_ms = _median_ms(lambda: store.remove_subject(f"P{next(removals)}"), repeat)
        change_ms = _median_ms(lambda: _change(store), repeat)
    return {
        "load_ms": encrypted_ms,
        "of_it_decrypting_ms": decrypting_ms,
        "load_without_encryption_ms": encrypted_ms - decrypting_ms,
        "change_of_the_key_ms": change_ms,
        "erasure_of_one_subject_ms": removal_ms,
    }


def _change(store: Store) -> None:
    """What an erasure adds: a new key for all rows, and the old one overwritten."""
    with store._writing() as db:  # noqa: SLF001
        note_stale(db, [store.keys.read().current.id])
    key = store._change_key()  # noqa: SLF001
    if not store._drop_old_keys(key, without_backups=False):  # noqa: SLF001
        raise SystemExit("the old key is still needed")


def _median_ms(work: Callable[[], object], repeat: int) -> float:
    times = []
    for _ in range(repeat):
        started_s = time.perf_counter()
        work()
        times.append((time.perf_counter() - started_s) * 1000)
    return round(statistics.median(times), 1)


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


if __name__ == "__main__":
    main()
