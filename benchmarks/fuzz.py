"""Bad input at scale: what do foreign bytes do to the kiosk, over every way in?

    python benchmarks/fuzz.py [--inputs 12000] [--seed 5] [--surface photo] [--guided 20000] [--keep DIR] > fuzz.json

Each surface runs the kiosk's own code in processes that are watched (tests/fuzz): mutated real files, documents that
Hypothesis makes up, a hostile camera and broker, and the running daemon with a real mosquitto. ``--guided`` lets
coverage lead for the parsers (needs the fuzz extra). The story on stderr, JSON on stdout; exit code 1 for any defect,
crash, hang or more than 64 MiB. Inputs that show one are kept in DIR. Needs the test extra and mosquitto.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parent.parent
TESTS = REPO / "tests"
sys.path[:0] = [str(REPO), str(TESTS)]

from fuzz.daemon import attack_daemon  # noqa: E402
from fuzz.harness import Result, run_surface  # noqa: E402

from kiosk import __version__  # noqa: E402

DAEMON = "daemon"
SHARES = {
    "photo": 22,
    "camera": 8,
    "video": 8,
    "badge": 6,
    "config": 14,
    "secrets": 4,
    "command": 10,
    "replay": 6,
    "broker": 8,
    "manifest": 8,
    "model": 2.5,
    "store": 4.5,
    "evidence": 3,
    DAEMON: 12,
}
"""Of a hundred inputs. What takes long gets fewer."""
MOST_GROWTH_KIB = 64 * 1024
GUIDED = ("config", "manifest", "replay", "evidence", "photo")
GUIDED_LIMIT_S = 900


def main() -> int:
    arguments = parse()
    began_s = time.monotonic()
    names = arguments.surface or list(SHARES)
    total = sum(SHARES[name] for name in names)
    counts = {name: max(round(arguments.inputs * SHARES[name] / total), 1) for name in names}
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder, ThreadPoolExecutor(arguments.jobs) as pool:
        futures = [pool.submit(attack, name, Path(folder), counts[name], arguments) for name in names]
        results = [future.result() for future in futures]
        guided = [lead(name, Path(folder), arguments) for name in GUIDED] if arguments.guided else []
    document = {
        "kiosk": __version__,
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}",
        "seed": arguments.seed,
        "inputs": sum(result.inputs for result in results),
        "crashes": sum(result.crashes for result in results),
        "hangs": sum(result.hangs for result in results),
        "defects": sum(result.defect_count for result in results),
        "growth_kib": max(result.growth_kib for result in results),
        "seconds": round(time.monotonic() - began_s),
        "surfaces": [asdict(result) for result in results],
        "guided": guided,
    }
    print(json.dumps(document, indent=1))
    sound = all(result.sound for result in results) and all(run["sound"] for run in guided)
    return 0 if sound and document["growth_kib"] <= MOST_GROWTH_KIB else 1


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=12_000, help="over all surfaces")
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--surface", action="append", choices=list(SHARES), help="only this one; may be repeated")
    parser.add_argument("--guided", type=int, default=0, metavar="N", help="coverage-guided inputs for each parser")
    parser.add_argument("--jobs", type=int, default=1, help="surfaces at a time")
    parser.add_argument("--keep", type=Path, help="folder for inputs that show a defect")
    return parser.parse_args()


def attack(name: str, folder: Path, count: int, arguments: argparse.Namespace) -> Result:
    if name == DAEMON:
        home = folder / DAEMON
        home.mkdir()
        result = attack_daemon(home, seed=arguments.seed, count=count)
    else:
        result = run_surface(name, folder=folder, seed=arguments.seed, count=count, kept=arguments.keep)
    tell(result)
    return result


def tell(result: Result) -> None:
    figures = f"{result.inputs} inputs, {result.defect_count} defects, {result.crashes} crashes, {result.hangs} hangs"
    memory = f"slowest {result.slowest_s:.2f} s, +{result.growth_kib / 1024:.0f} MiB"
    print(f"{result.surface}: {figures}, {memory}, {result.seconds:.0f} s", file=sys.stderr)
    for defect in result.defects:
        print(f"  {defect['index']}: {defect['what']}", file=sys.stderr)


def lead(name: str, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    home = arguments.keep or folder
    command = [sys.executable, "-m", "fuzz.guided", name, str(home / f"guided-{name}")]
    command += [f"-runs={arguments.guided}", f"-seed={arguments.seed}"]
    environment = os.environ | {"PYTHONPATH": f"{REPO}{os.pathsep}{TESTS}"}
    run = subprocess.run(
        command, env=environment, capture_output=True, text=True, errors="replace", timeout=GUIDED_LIMIT_S, check=False
    )
    covered = re.findall(r"cov: (\d+) ft: (\d+)", run.stderr)
    figures = {
        "surface": name,
        "runs": int(next(iter(re.findall(r"number_of_executed_units: (\d+)", run.stderr)), 0)),
        "covered_first": int(covered[0][0]) if covered else 0,
        "covered": int(covered[-1][0]) if covered else 0,
        "sound": run.returncode == 0,
        "problem": None if run.returncode == 0 else run.stderr[-2000:],
    }
    print(f"guided {name}: {figures['runs']} runs, {figures['covered']} branches, {run.returncode}", file=sys.stderr)
    return figures


if __name__ == "__main__":
    sys.exit(main())
