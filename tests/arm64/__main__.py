"""The kiosk on 64-bit ARM, under qemu: the same photos and the same clip there and here, and the tests of native code.

    python tests/arm64 [bookworm|trixie] [--cache FOLDER] [--photos FOLDER] [--bundle FOLDER] [--deb FILE]
        [--runtime RUNTIME] [--board pi4|pi5] [--only PART]

Needs root, Debian's debootstrap and qemu-user-static, and the release's Python (3.11, 3.13) on this machine. The first
run makes the root (12 minutes of an idle core); it is kept in --cache, which may be deleted at any time: nothing is
mounted there. Writes docs/measured/arm64.json; exit code 1 when a result is not the same, or a test fails.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

from comparison import Observation, compare
from root import BOARDS, PYTHONS, Root, RootError, enter_own_mounts, make_root, registered_qemu

from kiosk.biometrics import Box
from kiosk.clip import Person, Scene, Walk, write_clip
from kiosk.photo import read_photo

REPO = Path(__file__).resolve().parent.parent.parent
SAMPLES = REPO / "kiosk" / "data" / "samples"
MEASURED = REPO / "docs" / "measured" / "arm64.json"

# Newest versions with LiteRT, and the older ones that tflite-runtime needs; that exists for Python 3.11 only.
ENVIRONMENTS = {"bookworm": ("litert", "tflite-runtime"), "trixie": ("litert",)}
EXTRAS = {"litert": "demo,test", "tflite-runtime": "demo,test,tflite-runtime"}
GLIBC_MINOR = {"bookworm": 36, "trixie": 41}

# What native code is in: networks, pictures, codecs, cryptography, SQLite, sockets.
TESTS = ("detector", "embedder", "align", "photo", "recognition", "store", "encryption", "camera", "mqtt")
# Of the second runtime only what has to do with networks can differ.
NETWORK_TESTS = ("detector", "embedder", "recognition")
# Each is minutes under qemu: stores killed a hundred times, made-up histories, pictures of a gigabyte, many commands.
LEFT_OUT = ("killed_at_any_step", "rekey_tells", "processes_take_turns", "OutboxMachine", "pixel_bomb")
PARTS = ("compare", "tests", "package")
# How many times as long as usual something may take: an idle core under qemu needs some minutes for the demo.
PATIENCE = "60"
EXPECTED = {"biden": 2, "obama": 2}
"""The demo's check-ins."""

Document = dict[str, Any]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", nargs="?", choices=list(PYTHONS), default="bookworm")
    parser.add_argument("--cache", type=Path, default=REPO / ".arm64")
    parser.add_argument("--photos", type=Path, help="a folder of more photos than the samples")
    parser.add_argument("--bundle", type=Path, action="append", default=[], help="a model beside the built-in one")
    parser.add_argument("--deb", type=Path, help="the arm64 package of this release, to be installed")
    parser.add_argument("--runtime", choices=list(EXTRAS), help="one of them; by default all that the release has")
    parser.add_argument("--board", choices=list(BOARDS), default="pi4", help="whose processor: Cortex-A72 or A76")
    parser.add_argument("--only", choices=PARTS, action="append", help="not everything; may be repeated")
    options = parser.parse_args()
    for name, path in (
        ("deb", options.deb),
        ("photos", options.photos),
        *(("bundle", path) for path in options.bundle),
    ):
        if path is not None and not (path.is_file() if name == "deb" else path.is_dir()):
            parser.error(f"--{name} {path}: no such {'file' if name == 'deb' else 'folder'}")
    # Ends with everything put back, too.
    signal.signal(signal.SIGTERM, _end)
    parts = options.only or [part for part in PARTS if part != "package" or options.deb]
    if "package" in parts and options.deb is None:
        parser.error("--only package: --deb FILE is missing")
    try:
        enter_own_mounts()
        with registered_qemu():
            return Run(options, parts).do()
    except RootError as error:
        sys.exit(f"arm64: {error}")
    except KeyboardInterrupt:
        return 130


def _end(_signal: int, _frame: FrameType | None) -> None:
    sys.exit(143)


class Run:
    """One release of Debian, from nothing to the figures."""

    def __init__(self, options: argparse.Namespace, parts: list[str]) -> None:
        self._options = options
        self._parts = parts
        self._suite: str = options.suite
        self._python = PYTHONS[self._suite]
        self._cache: Path = options.cache.resolve()
        self._base = Root(self._cache / self._suite, board=BOARDS[options.board])
        self._work = self._cache / f"{self._suite}-run"
        self._failed = False

    def do(self) -> int:
        self._cache.mkdir(parents=True, exist_ok=True)
        say(f"making {self._cache / self._suite}, unless it is there")
        made_s = make_root(self._cache / self._suite, self._suite)
        shutil.rmtree(self._work, ignore_errors=True)
        self._work.mkdir()
        if "package" in self._parts:
            self._note(self._key("package"), self._install_package())
        if {"compare", "tests"} & set(self._parts):
            self._note("root", {"made_s": made_s})
            self._lay_out()
            for name in ENVIRONMENTS[self._suite]:
                if self._options.runtime in {None, name}:
                    self._do_environment(name)
        return int(self._failed)

    def _do_environment(self, name: str) -> None:
        host = self._host_environment(name)
        root = self._install(name, host)
        if "compare" in self._parts:
            self._note(self._key(name), self._compare(name, host, root))
        if "tests" in self._parts:
            self._note(self._key(f"{name} tests"), self._test(name, root))

    def _key(self, part: str) -> str:
        """In the published document."""
        return part if self._options.board == "pi4" else f"{part}, {self._options.board}"

    def _note(self, key: str, figures: Document) -> None:
        """Add to the published document, and say what is not as it should be."""
        for problem in figures.get("problems", []):
            say(f"{self._suite}, {key}: {problem}")
            self._failed = True
        document = json.loads(MEASURED.read_text(encoding="utf-8")) if MEASURED.exists() else {}
        document.setdefault(self._suite, {})[key] = _finite(figures)
        MEASURED.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")

    # What is put in

    def _lay_out(self) -> None:
        """The same photos and the same clip for both machines."""
        photos = self._work / "shown" / "photos"
        photos.mkdir(parents=True)
        for folder in (SAMPLES, self._options.photos):
            for path in sorted(folder.iterdir()) if folder else ():
                if path.suffix in {".jpg", ".png"}:
                    shutil.copy(path, photos / path.name)
        for bundle in self._options.bundle:
            shutil.copytree(bundle, self._work / "shown" / "bundles" / bundle.name)
        write_short_clip(self._work / "shown" / "clip.avi")

    def _host_environment(self, name: str) -> Path:
        """This machine's own Python packages; their versions are what the root gets, too."""
        folder = self._cache / f"host-{self._python}-{name}"
        subprocess.run([REPO / "quickstart", "environment", folder, self._python, EXTRAS[name]], check=True)
        return folder

    def _install(self, name: str, host: Path) -> Root:
        """A virtual environment in the root, with the packages for arm64, and the project on top."""
        pins = self._run([host / "bin/python", "-m", "pip", "freeze", "--exclude-editable"])
        layer = self._cache / f"{self._suite}-{name}"
        root = Root(layer, (self._base.changes,), board=self._base.board)
        if not (layer / "pins").exists() or (layer / "pins").read_text(encoding="utf-8") != pins:
            say(f"{name}: installing the arm64 packages")
            root = self._base.layer(layer)
            root.run("python3", "-m", "venv", "--without-pip", "/venv")
            requirements = self._work / f"{name}.txt"
            requirements.write_text(pins, encoding="utf-8")
            self._pip(host, root, "-r", requirements)
            (layer / "pins").write_text(pins, encoding="utf-8")
        fresh = root.layer(self._work / name, shown=self._work / "shown")
        _copy_repository(fresh.path("/repo"))
        wheels = self._work / f"{name}-wheel"
        self._run([host / "bin/python", "-m", "hatchling", "build", "-t", "wheel", "-d", wheels], cwd=REPO)
        self._pip(host, fresh, next(wheels.iterdir()))
        return fresh

    def _pip(self, host: Path, root: Root, *what: str | Path) -> None:
        """Unpack wheels for arm64 into the root's environment, and compile: by a Python of the same minor version."""
        minors = range(GLIBC_MINOR[self._suite], 16, -1)
        platforms = [f"manylinux_2_{minor}_aarch64" for minor in minors] + ["manylinux2014_aarch64", "linux_aarch64"]
        target = root.path(f"/venv/lib/python{self._python}/site-packages")
        target.mkdir(parents=True, exist_ok=True)
        pip: list[str | Path] = [host / "bin/python", "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        pip += ["--no-deps", "--only-binary", ":all:", "--upgrade", "--target", target]
        pip += [part for platform in platforms for part in ("--platform", platform)]
        pip += ["--implementation", "cp", "--python-version", self._python, *what]
        self._run(pip)

    # What is done with it

    def _compare(self, name: str, host: Path, root: Root) -> Document:
        here, there = self._work / f"{name}-here", root.path("/there")
        observation = Path(__file__).with_name("observation.py")
        bundles = [f"bundles/{bundle.name}" for bundle in self._options.bundle]

        def arguments(shown: Path, out: Path, *more: str | Path) -> list[str]:
            what: list[str | Path] = [out, "--photos", shown / "photos", "--clip", shown / "clip.avi"]
            what += [part for bundle in bundles for part in ("--bundle", shown / bundle)]
            return [str(part) for part in [*what, "--runtime", name, *more]]

        say(f"{name}: photos and clip on this machine")
        watch_here = Watch()
        self._run([host / "bin/python", observation, *arguments(self._work / "shown", here)])
        took_here = watch_here.read()
        for suffix in (".npz", ".json"):
            shutil.copy(here.with_suffix(suffix), self._work / "shown" / f"here{suffix}")
        say(f"{name}: photos and clip on arm64")
        watch = Watch()
        script = "/repo/tests/arm64/observation.py"
        given = ("--given", "/shown/here")
        root.run("/venv/bin/python", script, *arguments(Path("/shown"), Path("/there"), *given))
        took_there = watch.read()
        figures = compare(Observation.read(here), Observation.read(there))
        return {"took_here": took_here, "took_there": took_there, **figures}

    def _test(self, name: str, root: Root) -> Document:
        chosen = TESTS if name == "litert" else NETWORK_TESTS
        say(f"{name}: the tests of {', '.join(chosen)} on arm64")
        log = self._work / f"{name}-tests.log"
        watch = Watch()
        command = ["env", f"TEST_PATIENCE={PATIENCE}", "/venv/bin/python", "-m", "pytest", "-q"]
        command += ["-p", "no:cacheprovider", "--numprocesses", "2"]
        command += ["--runtime", name, "--durations", "20", "-m", "not (convert or faults)"]
        command += ["-k", f"not ({' or '.join(LEFT_OUT)})", *(f"/repo/tests/test_{part}.py" for part in chosen)]
        problems = []
        try:
            root.run(*command, log=log)
        except RootError as error:
            problems.append(str(error))
        return {"tests": list(chosen), "took": watch.read(), **_counts(log), "problems": problems}

    def _install_package(self) -> Document:
        """Acceptance: in a root that has nothing of the kiosk, apt installs the package, and the demo is right."""
        shown = self._work / "shown"
        shown.mkdir(exist_ok=True)
        package = Path(shutil.copy(self._options.deb, shown))
        root = self._base.layer(self._work / "package", shown=shown)
        took, said, problems = {}, {}, []
        steps = {
            "update": ("apt-get", "-q", "update"),
            "install": ("apt-get", "-q", "-y", "--no-install-recommends", "install", f"/shown/{package.name}"),
            "version": ("kiosk", "--version"),
            # There is no camera: it says so, and is not content.
            "check": ("kiosk", "check"),
            "demo": ("kiosk", "demo", "--patience", PATIENCE),
        }
        for name, command in steps.items():
            say(f"package: {' '.join(command)}")
            watch = Watch()
            result = root.run(*command, check=False)
            took[name] = watch.read()
            (self._work / f"package-{name}.log").write_text(result.stdout + result.stderr, encoding="utf-8")
            if result.returncode and name != "check":
                problems.append(f"{' '.join(command)}: exit code {result.returncode}: {result.stderr[-500:]}")
                break
            if name in {"version", "check"}:
                said[name] = result.stdout.strip().splitlines()
            if name == "demo":
                said["check_ins"] = _check_ins(result.stdout)
                if said["check_ins"] != EXPECTED:
                    problems.append(f"kiosk demo: {said['check_ins']}, expected {EXPECTED}")
        named = self._run(["dpkg-deb", "--show", package]).split()
        return {"package": " ".join(named), "took": took, **said, "problems": problems}

    @staticmethod
    def _run(command: list[str | Path], cwd: Path | None = None) -> str:
        result = subprocess.run(command, cwd=cwd, capture_output=True, encoding="utf-8", check=False)
        if result.returncode:
            raise RootError(f"{' '.join(map(str, command[:4]))}: exit code {result.returncode}:\n{result.stderr}")
        return result.stdout


class Watch:
    """Seconds since it was made: by the clock, and of processors by what has run for us and ended since."""

    def __init__(self) -> None:
        self._started_s, self._busy_s = time.monotonic(), self._busy()

    def read(self) -> dict[str, float]:
        return {"seconds": time.monotonic() - self._started_s, "processor_seconds": self._busy() - self._busy_s}

    @staticmethod
    def _busy() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime


def write_short_clip(path: Path) -> None:
    """Two seconds of somebody enrolled, and three of a stranger."""
    obama = Person(read_photo(SAMPLES / "obama2.jpg"), Box(115, 181, 181, 181))
    stranger = Person(read_photo(SAMPLES / "collins.jpg"), Box(178, 81, 94, 94))
    walks = [Walk(obama, x=(0.3, 0.5), face_px=(90, 130)), Walk(stranger, x=(0.7, 0.5), face_px=(80, 95))]
    write_clip(path, [Scene(0.3), Scene(2.0, (walks[0],)), Scene(1.5), Scene(3.0, (walks[1],)), Scene(0.3)])


def _copy_repository(folder: Path) -> None:
    """What git knows of, or would."""
    folder.mkdir(parents=True)
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPO,
        capture_output=True,
        check=True,
    ).stdout
    for name in filter(None, listed.decode().split("\0")):
        if (REPO / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPO / name, folder / name)


def _check_ins(lines: str) -> dict[str, int]:
    """How often each subject was checked in, by the messages that `kiosk demo` has printed."""
    messages = [json.loads(line) for line in lines.splitlines()]
    events = {
        message["payload"]["event_id"]: message["payload"]
        for message in messages
        if message["topic"].endswith("/event/attendance")
    }
    return dict(sorted(Counter(event["subject"]["id"] for event in events.values()).items()))


def _counts(log: Path) -> dict[str, int]:
    """passed, failed and skipped, as pytest's last line has them."""
    last = log.read_text(encoding="utf-8").strip().rsplit("\n", 1)[-1]
    return {what: int(count) for count, what in re.findall(r"(\d+) (passed|failed|skipped|errors?)", last)}


def _finite(value: Any) -> Any:
    """JSON knows no NaN."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.4g}") if math.isfinite(value) else None
    return value


def say(text: str) -> None:
    sys.stderr.write(f"arm64: {text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    os.environ.pop("PYTHONPATH", None)
    sys.exit(main())
