"""What systemd's sandbox costs: recognition inside and outside it, in alternating runs on one machine.

    debootstrap --variant=minbase --include=systemd,systemd-sysv,dbus,python3 bookworm ROOT
    python benchmarks/sandbox.py ROOT [--rounds 40] [--repeat 60] [--without-cpuinfo]

Needs root, systemd-nspawn, and the Python version that ROOT has (Debian 12: 3.11). Boots ROOT in a container, installs
the kiosk there, and runs the same measuring process under ``systemd/kiosk.service`` (a drop-in changes what is run and
how it is waited for, never the sandbox) and under a unit without any restriction. ``--without-cpuinfo`` adds runs of
the kiosk's unit with ProcSubset=pid, which takes the model runtime its fast code: what a real loss looks like here.
Prints one JSON document. ROOT is kept, to be used again; remove it when done.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPO / "tests"))

from nspawn import Container  # noqa: E402

from kiosk import tflite  # noqa: E402
from kiosk.bundle import BUILT_IN, BUILT_IN_BUNDLE, read_bundle  # noqa: E402
from kiosk.detector import BlazeFaceDetector  # noqa: E402
from kiosk.embedder import TfliteEmbedder  # noqa: E402
from kiosk.photo import read_photo  # noqa: E402

UNIT = REPO / "systemd" / "kiosk.service"
SAMPLE = BUILT_IN.parent / "samples" / "obama.jpg"
KIOSK = Path("opt/kiosk")
RESULT = Path("var/measured.json")
WARM_UP = 5
SLOW_ROUNDS, SLOW_REPEAT = 3, 3
"""Without the fast code an embedding takes a second, and nothing close has to be told apart."""

Figures = dict[str, Any]

RUN = f"""[Service]
Type=oneshot
WatchdogSec=0
Restart=no
ExecStart=
ExecStart=/{KIOSK}/venv/bin/python /{KIOSK}/sandbox.py --measure --repeat {{repeat}}
StandardOutput=truncate:/{RESULT}
StandardError=journal
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, nargs="?")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--repeat", type=int, default=60, help="times that each run finds and embeds the face")
    parser.add_argument("--without-cpuinfo", action="store_true")
    parser.add_argument("--measure", action="store_true", help="only measure, in this process")
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.repeat)))
        return
    if options.root is None:
        parser.error("ROOT is missing")
    install(options.root)
    units = write_units(options.root, options.repeat, without_cpuinfo=options.without_cpuinfo)
    with Container(options.root) as container:
        figures = compare(container, options.root, units, options.rounds)
        figures["machine"] = f"{platform.machine()}, {_cpu()}, Linux {platform.release()}, {container.version()}"
    print(json.dumps(figures, indent=1))


# Inside and outside the sandbox


def measure(repeat: int) -> Figures:
    """The medians of this process, and how it is restricted."""
    bundle, image, detector = read_bundle(BUILT_IN / BUILT_IN_BUNDLE), read_photo(SAMPLE), BlazeFaceDetector()
    face = detector.detect(image)[0]
    one, two = (TfliteEmbedder(bundle, threads=threads) for threads in (1, 2))
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines())
    networks: dict[str, BlazeFaceDetector | TfliteEmbedder] = {
        "finding": detector,
        "embedding_1_thread": one,
        "embedding_2_threads": two,
    }
    return {
        "finding": _time(lambda: detector.detect(image), repeat),
        "embedding_1_thread": _time(lambda: one.embed_frame(image, face, mirrored=False), repeat),
        "embedding_2_threads": _time(lambda: two.embed_frame(image, face, mirrored=False), repeat),
        "xnnpack_parts": {name: _xnnpack_parts(network) for name, network in networks.items()},
        "seccomp_filters": int(status["Seccomp_filters"]),
        "runtime": tflite.runtime_version("auto"),
    }


def _time(work: Callable[[], object], repeat: int) -> Figures:
    """Median and first decile of the time, which other processes on the machine lengthen; median processor time."""
    for _ in range(min(WARM_UP, repeat)):
        work()
    took_s, busy_s = [], []
    for _ in range(repeat):
        started_s, started_busy_s = time.perf_counter(), time.process_time()
        work()
        busy_s.append(time.process_time() - started_busy_s)
        took_s.append(time.perf_counter() - started_s)
    return {
        "ms": statistics.median(took_s) * 1000,
        "least_disturbed_ms": sorted(took_s)[repeat // 10] * 1000,
        "busy_ms": statistics.median(busy_s) * 1000,
    }


def _xnnpack_parts(network: BlazeFaceDetector | TfliteEmbedder) -> int:
    """Parts of a network that the runtime has given to its fast code."""
    operations = network._interpreter._get_ops_details()  # type: ignore[attr-defined] # noqa: SLF001 - told nowhere else
    return sum(operation["op_name"] == "DELEGATE" for operation in operations)


# The container


def install(root: Path) -> None:
    """The kiosk of this checkout and its user, where systemd/README.md has them."""
    shutil.rmtree(root / KIOSK, ignore_errors=True)
    _run("chroot", root, "python3", "-m", "venv", "--without-pip", f"/{KIOSK}/venv")
    (packages,) = root.glob(f"{KIOSK}/venv/lib/python*/site-packages")
    if packages.parent.name != f"python{sys.version_info.major}.{sys.version_info.minor}":
        sys.exit(f"{root} has {packages.parent.name}: run this with the same")
    _run(sys.executable, "-m", "pip", "install", "--quiet", "--target", packages, REPO)
    for program in (Path(__file__), REPO / "tests" / "nspawn.py"):
        shutil.copy(program, root / KIOSK)
    if "\nkiosk:" not in (root / "etc/passwd").read_text(encoding="utf-8"):
        _run("chroot", root, "useradd", "--system", "--home-dir", "/var/lib/kiosk", "kiosk")


def write_units(root: Path, repeat: int, *, without_cpuinfo: bool) -> list[str]:
    """Names of the units: outside the sandbox, inside, and where wanted inside without /proc/cpuinfo."""
    folder = root / "etc/systemd/system"
    run = RUN.format(repeat=repeat)
    (folder / "outside.service").write_text(run, encoding="utf-8")
    _write_unit(folder, "inside", run)
    if not without_cpuinfo:
        return ["outside", "inside"]
    _write_unit(folder, "without_cpuinfo", RUN.format(repeat=SLOW_REPEAT) + "ProcSubset=pid\n")
    return ["outside", "inside", "without_cpuinfo"]


def _write_unit(folder: Path, name: str, changes: str) -> None:
    shutil.copy(UNIT, folder / f"{name}.service")
    (folder / f"{name}.service.d").mkdir(exist_ok=True)
    (folder / f"{name}.service.d" / "run.conf").write_text(changes, encoding="utf-8")


def run_unit(container: Container, root: Path, unit: str) -> Figures:
    """Run a oneshot unit to its end; what it printed."""
    if container.call("systemctl", "start", unit).returncode != 0:
        sys.exit(container.call("journalctl", "--unit", unit, "--no-pager", "--lines=20").stdout)
    figures: Figures = json.loads((root / RESULT).read_text(encoding="utf-8"))
    return figures


def compare(container: Container, root: Path, units: list[str], rounds: int) -> Figures:
    """Runs of all units by turns, so that what slows the machine for a while slows them alike."""
    runs: dict[str, list[Figures]] = {unit: [] for unit in units}
    for number in range(rounds):
        turns = units if number < SLOW_ROUNDS else units[:2]
        for unit in turns if number % 2 == 0 else reversed(turns):
            runs[unit].append(run_unit(container, root, unit))
    first = {unit: runs[unit][0] for unit in units}
    if any(first[unit]["seccomp_filters"] <= first["outside"]["seccomp_filters"] for unit in units[1:]):
        sys.exit("the sandbox restricted nothing")
    return {
        "rounds": rounds,
        "runtime": first["outside"]["runtime"],
        "xnnpack_parts": {unit: first[unit]["xnnpack_parts"] for unit in units},
        "seccomp_filters": {unit: first[unit]["seccomp_filters"] for unit in units},
        **{
            step: {measure: _summarize(runs, step, measure) for measure in runs["outside"][0][step]}
            for step in ("finding", "embedding_1_thread", "embedding_2_threads")
        },
    }


def _summarize(runs: dict[str, list[Figures]], step: str, measure: str) -> Figures:
    """Each unit's median, and the median of its rounds' ratios to the run outside."""
    values = {unit: [run[step][measure] for run in rounds] for unit, rounds in runs.items()}
    summary: Figures = {unit: round(statistics.median(of), 3) for unit, of in values.items()}
    for unit in list(values)[1:]:
        ratios = [there / outside for there, outside in zip(values[unit], values["outside"], strict=False)]
        summary[f"{unit}_to_outside"] = round(statistics.median(ratios), 3)
        summary[f"{unit}_to_outside_range"] = [round(min(ratios), 3), round(max(ratios), 3)]
    return summary


def _run(*command: str | Path) -> None:
    subprocess.run(command, check=True)


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


if __name__ == "__main__":
    main()
