"""The Debian package's whole life on a real systemd: installed, first check-in, hang, reboot, upgrade, removal, purge.

    python tests/appliance.py [RELEASE] [--work FOLDER] [--results docs/measured/appliance.json]

Needs root, Debian, debootstrap, systemd-nspawn and the package registries; elsewhere it says so (in CI: fails).
Makes a clean root of the release, downloads into it what the documented command needs, boots it without a network, and
types what docs/install.md says. The camera is an MJPEG stream of the demo's clip, the broker Debian's mosquitto as it
comes, and the subscriber one whose session outlives the reboot. RELEASE is bookworm (the default) or trixie.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

REPO = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPO), str(REPO / "tests")]

import cv2  # noqa: E402
from mjpeg import MjpegServer  # noqa: E402
from nspawn import Container  # noqa: E402

from kiosk.biometrics import Image  # noqa: E402
from kiosk.demo import SAMPLES, write_scenes  # noqa: E402

PACKAGE = "attendance-kiosk"
CAMERA_PORT = 8090
FPS = 10.0
"""The clip's own."""
PEOPLE = {"obama": ("Barack Obama", "obama.jpg"), "biden": ("Joe Biden", "biden_portrait.jpg")}
BESIDE = ("mosquitto", "mosquitto-clients", "sudo")
SUBSCRIBE = ["mosquitto_sub", "-V", "5", "-q", "1", "-c", "-x", "2592000", "-t", "kiosk/v1/+/+/event/attendance", "-i"]
STORE = "var/lib/kiosk/kiosk.db"
VENV = "opt/kiosk/venv"
WATCHDOG_S = 30.0
"""WatchdogSec of the unit."""
PATIENCE_S = 180.0
"""The machine may be busy."""

Figures = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("release", nargs="?", choices=["bookworm", "trixie"], default="bookworm")
    parser.add_argument("--work", type=Path, help="keep the clean root here for the next time")
    parser.add_argument(
        "--packages", type=Path, nargs=2, help="two packages, the second of a higher version; else they are built"
    )
    parser.add_argument("--results", type=Path, help="file that the figures are added to")
    parser.add_argument("--camera", type=Path, help="only serve this clip as a camera does")
    options = parser.parse_args()
    if options.camera is not None:
        serve(options.camera)
        return
    missing = find_missing()
    if missing:
        if os.environ.get("CI") == "true":
            sys.exit(f"appliance: impossible here: {missing}")
        print(f"skipped: {missing}")
        return
    with contextlib.ExitStack() as stack:
        work = options.work or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="appliance-")))
        figures = Appliance(options.release, work.absolute()).run(options.packages)
    if options.results is not None:
        known = json.loads(options.results.read_text(encoding="utf-8")) if options.results.exists() else {}
        known[options.release] = figures
        options.results.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


def find_missing() -> str | None:
    """Why it cannot be done on this machine."""
    if os.geteuid() != 0:
        return "root is needed"
    for program in ("debootstrap", "systemd-nspawn", "nsenter", "dpkg"):
        if shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin") is None:
            return f"{program} is not installed (Debian: apt-get install debootstrap systemd-container)"
    return None


class Appliance:
    """A clean root of a release, and what is done in it."""

    def __init__(self, release: str, work: Path) -> None:
        self._release = release
        self._work = work
        self._root = work / f"root-{release}"
        self._clip = work / "clip.avi"
        self._received = work / f"received-{release}.jsonl"
        self._session = "attendance"
        self._steps: list[Figures] = []
        self._container = Container(self._root, private_network=True)

    def run(self, packages: list[Path] | None) -> Figures:
        """Every step; what was measured."""
        started_s = time.monotonic()
        self._received.write_text("", encoding="utf-8")
        if packages is None:
            with self._step("build the package, twice: revision 1 and 2"):
                packages = [self._build(revision) for revision in ("1", "2")]
        self._prepare(packages)
        write_scenes(self._clip)
        try:
            with self._running():
                self._install(packages[0])
                self._hang()
            with self._step("boot again"):
                stack = contextlib.ExitStack()
                stack.enter_context(self._running())
            with stack:
                self._after_reboot()
                self._upgrade(packages[1])
                self._remove(packages[1])
                self._purge()
                self._over_an_installation_by_hand(packages[1])
                machine = f"{platform.machine()}, {os.cpu_count()} processors, {self._container.version()}"
                python = self._in("python3", "--version").strip()
        finally:
            shutil.rmtree(self._root)
        return {
            "machine": machine,
            "python": python,
            "package_bytes": packages[0].stat().st_size,
            "steps": self._steps,
            "whole_s": round(time.monotonic() - started_s),
            "load_average": round(os.getloadavg()[2], 1),
        }

    # Before it is switched on

    def _build(self, revision: str) -> Path:
        architecture = _output("dpkg", "--print-architecture").strip()
        return REPO / _output(REPO / "debian" / "build", self._release, architecture, revision).splitlines()[-1]

    def _prepare(self, packages: list[Path]) -> None:
        base = self._work / f"base-{self._release}"
        if not base.exists():
            with self._step(f"make a clean root of {self._release}"):
                part = base.with_suffix(".part")
                _output("debootstrap", "--variant=minbase", "--include=systemd,systemd-sysv,dbus", self._release, part)
                part.rename(base)
        shutil.rmtree(self._root, ignore_errors=True)
        _output("cp", "-a", "--reflink=auto", base, self._root)
        for package in packages:
            shutil.copy(package, self._root / "srv")
        # An installer writes these.
        (self._root / "etc/hostname").write_text("door-1\n", encoding="ascii")
        (self._root / "etc/hosts").write_text("127.0.0.1 localhost\n127.0.1.1 door-1\n", encoding="ascii")
        with self._step("download what it needs from Debian"):
            apt = ["chroot", self._root, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq"]
            _output(*apt, "update")
            _output(*apt, "install", "--download-only", "-y", f"/srv/{packages[0].name}", *BESIDE)

    @contextlib.contextmanager
    def _running(self) -> Iterator[None]:
        """Switched on, with a camera beside it, and a subscriber where there is a broker."""
        with self._container, self._camera():
            yield

    @contextlib.contextmanager
    def _camera(self) -> Iterator[None]:
        network = ["nsenter", "--target", self._container.leader, "--net", "--"]
        with subprocess.Popen([*network, sys.executable, __file__, "--camera", self._clip]) as process:
            try:
                yield
            finally:
                process.terminate()

    @contextlib.contextmanager
    def _subscriber(self) -> Iterator[None]:
        # Not in its process namespace: there nsenter would stay between, and end alone.
        inside = ["nsenter", "--target", self._container.leader, "--mount", "--net", "--"]
        with (
            self._received.open("ab") as received,
            subprocess.Popen([*inside, *SUBSCRIBE, self._session], stdout=received) as process,
        ):
            try:
                yield
            finally:
                process.terminate()

    # Its life

    def _install(self, package: Path) -> None:
        with self._step("apt install"):
            said = self._apt("install", f"/srv/{package.name}", *BESIDE)
        assert "sudo systemctl enable --now kiosk" in said, said
        version = self._in("kiosk", "--version")
        assert re.search(r"commit [0-9a-f]{7,}.*Debian package \S+~deb1[23], Python", version), version
        state = self._in("stat", "--format=%a %U", "/var/lib/kiosk").strip()
        assert state == "700 kiosk", state
        # Nobody has said yet where it is and what it may look at.
        assert self._ask("systemctl", "is-enabled", "kiosk") == "disabled"
        assert self._ask("systemctl", "is-active", "kiosk") == "inactive"
        self._configure()
        for subject, (_, photo) in PEOPLE.items():
            shutil.copy(SAMPLES / photo, self._root / "srv" / f"{subject}.jpg")
        with self._step("kiosk check"):
            print(self._in("sudo", "-u", "kiosk", "kiosk", "check"))
        self._enroll()
        with self._subscriber():
            with self._step("systemctl enable --now kiosk"):
                self._in("systemctl", "enable", "--now", "kiosk")
            with self._step("first check-in at the subscriber"):
                self._await_check_ins(1)

    def _configure(self) -> None:
        path = self._root / "etc/kiosk/config.yaml"
        text = path.read_text(encoding="utf-8")
        for old, new in (
            ("  source: 0 ", f"  source: http://127.0.0.1:{CAMERA_PORT}/camera.mjpg "),
            ("  refractory_s: 60.0 ", "  refractory_s: 5.0 "),
        ):
            assert old in text, old
            text = text.replace(old, new)
        path.write_text(text, encoding="utf-8")

    def _enroll(self) -> None:
        for subject, (name, _) in PEOPLE.items():
            with self._step(f"kiosk enroll {subject}"):
                photo = f"/srv/{subject}.jpg"
                self._in("sudo", "-u", "kiosk", "kiosk", "enroll", subject, "--name", "-", photo, text=f"{name}\n")

    def _hang(self) -> None:
        with self._subscriber():
            stopped_s = time.monotonic()
            self._in("systemctl", "kill", "--signal=SIGSTOP", "--kill-whom=main", "kiosk")
            with self._step("stopped (SIGSTOP): started again by the watchdog"):
                _wait(lambda: self._show("NRestarts") == "1" and self._show("ActiveState") == "active", "restart")
            assert time.monotonic() - stopped_s > WATCHDOG_S / 2
            with self._step("check-in after it"):
                self._await_check_ins(len(self._check_ins()) + 1)
        self._judge()

    def _after_reboot(self) -> None:
        with self._subscriber():
            _wait(lambda: self._ask("systemctl", "is-active", "kiosk") == "active", "start at boot")
            with self._step("check-in after the reboot"):
                self._await_check_ins(len(self._check_ins()) + 1)
        self._judge()

    def _upgrade(self, package: Path) -> None:
        before = self._in("kiosk", "--version")
        with self._subscriber():
            with self._step("apt install of the higher version"):
                self._apt("install", f"/srv/{package.name}")
            after = self._in("kiosk", "--version")
            assert after != before
            assert self._in("dpkg-query", "--show", "--showformat", "${Version}", PACKAGE) in after, after
            assert self._subjects() == set(PEOPLE)
            with self._step("check-in after the upgrade"):
                self._await_check_ins(len(self._check_ins()) + 1)
        self._judge()
        path = self._root / "etc/kiosk/config.yaml"
        good = path.read_text(encoding="utf-8")
        path.write_text(good + "camra: {}\n", encoding="utf-8")
        with self._step("an upgrade after which it does not start: told"):
            said = self._apt("install", "--reinstall", f"/srv/{package.name}")
        assert "THE KIOSK IS NOT RUNNING" in said, said
        path.write_text(good, encoding="utf-8")
        self._in("systemctl", "restart", "kiosk")

    def _remove(self, package: Path) -> None:
        with self._step("apt remove"):
            self._apt("remove", PACKAGE)
        assert (self._root / STORE).exists()
        assert (self._root / "etc/kiosk/config.yaml").exists()
        for gone in ("opt/kiosk", "usr/bin/kiosk"):
            assert not os.path.lexists(self._root / gone), gone
        assert self._ask("systemctl", "is-active", "kiosk") == "inactive"
        with self._step("apt install again"):
            self._apt("install", f"/srv/{package.name}")
        assert self._subjects() == set(PEOPLE)
        with self._subscriber():
            self._await_check_ins(len(self._check_ins()) + 1)
        self._judge()

    def _purge(self) -> None:
        with self._step("apt purge"):
            said = self._apt("purge", PACKAGE)
        assert "erasing /var/lib/kiosk" in said, said
        found = self._in("find", "/", "-xdev", "-iname", "*kiosk*").split()
        # What this test has put there, and what apt and systemd remember of the past.
        known = ("/srv", "/var/cache/apt", "/var/lib/apt", "/var/log")
        left = [path for path in found if not path.startswith(known)]
        assert not left, left

    def _over_an_installation_by_hand(self, package: Path) -> None:
        """As docs/install.md does it, but with the package's own venv, not one that pip fills: there is no network."""
        self._in("dpkg-deb", "-x", f"/srv/{package.name}", "/srv/unpacked")
        (self._root / "etc/kiosk").mkdir()
        shutil.copy(REPO / "config.yaml", self._root / "etc/kiosk")
        shutil.copy(REPO / "systemd/kiosk.service", self._root / "etc/systemd/system")
        (self._root / VENV).parent.mkdir(parents=True)
        self._in("mv", f"/srv/unpacked/{VENV}", f"/{VENV}")
        self._in("install", "-d", "-m", "700", "-o", "kiosk", "/var/lib/kiosk")
        self._configure()
        program = f"/{VENV}/bin/kiosk"
        for subject in PEOPLE:
            self._in("sudo", "-u", "kiosk", program, "enroll", subject, f"/srv/{subject}.jpg")
        # A store of its own, whose numbers begin at one.
        self._session = "by-hand"
        self._received.write_text("", encoding="utf-8")
        with self._subscriber():
            self._in("systemctl", "daemon-reload")
            self._in("systemctl", "enable", "--now", "kiosk")
            self._await_check_ins(1)
            with self._step("apt install over an installation by hand"):
                said = self._apt("install", "-o", "Dpkg::Options::=--force-confold", f"/srv/{package.name}")
            assert f"/{VENV} was installed by hand: it is now /{VENV}.by-hand" in said, said
            assert self._subjects() == set(PEOPLE)
            assert self._show("FragmentPath").endswith("lib/systemd/system/kiosk.service")
            with self._step("check-in after it"):
                self._await_check_ins(len(self._check_ins()) + 1)
        self._judge()

    # What is asked of it

    def _in(self, *command: str | Path, text: str = "") -> str:
        run = self._container.call(*command, text=text)
        if run.returncode != 0:
            journal = self._container.call("journalctl", "--unit", "kiosk", "--no-pager", "--lines=30").stdout
            sys.exit(f"{' '.join(map(str, command))}: {run.returncode}\n{run.stdout}{run.stderr}\n{journal}")
        return run.stdout

    def _ask(self, *command: str) -> str:
        """What it answers, whatever its exit code."""
        return self._container.call(*command).stdout.strip()

    def _apt(self, *arguments: str) -> str:
        """All that is said on both streams."""
        line = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-q", "-y", *arguments]
        return self._in("sh", "-c", '"$@" 2>&1', "sh", *line)

    def _show(self, name: str) -> str:
        return self._in("systemctl", "show", "--value", "--property", name, "kiosk").strip()

    def _subjects(self) -> set[str]:
        listed = json.loads(self._in("sudo", "-u", "kiosk", "kiosk", "subjects", "list", "--json"))
        return {subject["subject_id"] for subject in listed["subjects"]}

    def _check_ins(self) -> list[Figures]:
        lines = self._received.read_text(encoding="utf-8").splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def _await_check_ins(self, count: int) -> None:
        _wait(lambda: len(self._check_ins()) >= count, f"check-in {count}")

    def _judge(self) -> None:
        """Of the enrolled only, and none missing: what came twice has the same id."""
        events = {event["event_id"]: event for event in self._check_ins()}.values()
        counts = Counter(event["seq"] for event in events)
        assert set(counts) == set(range(1, len(counts) + 1)), counts
        assert max(counts.values()) == 1, counts
        assert {event["subject"]["id"] for event in events} <= set(PEOPLE)

    @contextlib.contextmanager
    def _step(self, name: str) -> Iterator[None]:
        started_s = time.monotonic()
        yield
        took_s = time.monotonic() - started_s
        self._steps.append({"step": name, "s": round(took_s, 1)})
        print(f"{took_s:7.1f} s  {name}", flush=True)


class ClipCamera(MjpegServer):
    """Plays a clip again and again."""

    def __init__(self, clip: Path) -> None:
        super().__init__(fps=FPS)
        self.port = CAMERA_PORT
        self._frames = [cv2.imencode(".jpg", frame)[1].tobytes() for frame in _frames(clip)]

    def _jpeg(self, number: int) -> bytes:
        return self._frames[number % len(self._frames)]


def _frames(clip: Path) -> Iterator[Image]:
    reader = cv2.VideoCapture(str(clip))
    while (read := reader.read())[0]:
        yield read[1]


def serve(clip: Path) -> NoReturn:
    with ClipCamera(clip):
        while True:
            time.sleep(60)


def _wait(condition: Callable[[], bool], what: str) -> None:
    until_s = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > until_s:
            sys.exit(f"{what}: not within {PATIENCE_S:g} s")
        time.sleep(0.2)


def _output(*command: str | Path) -> str:
    run = subprocess.run(list(map(str, command)), capture_output=True, encoding="utf-8", check=False)
    if run.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}: {run.returncode}\n{run.stdout}{run.stderr}")
    return run.stdout


if __name__ == "__main__":
    main()
