"""The service unit is one systemd accepts, is hardened, and avoids what stops or slows the kiosk."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import restrictions

from kiosk.tflite import Runtime

ANALYZE = shutil.which("systemd-analyze")
needs_systemd = pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not on this machine")

WORST_EXPOSURE = {252: 15}
"""By systemd's version, in tenths; a plain unit scores 92. Every version counts a little differently."""
WORST_EXPOSURE_ELSEWHERE = 20
"""Still "OK" on systemd's scale."""


@pytest.fixture
def unit_file(repo: Path) -> Path:
    return repo / "systemd" / "kiosk.service"


@pytest.fixture
def service(unit_file: Path) -> Mapping[str, list[str]]:
    """The unit's [Service] section: every value a setting is given, in order."""
    section = unit_file.read_text(encoding="utf-8").split("[Service]\n")[1].split("\n[")[0]
    settings: dict[str, list[str]] = {}
    for line in section.splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.partition("=")
            settings.setdefault(name, []).append(value)
    return settings


def analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    assert ANALYZE is not None
    return subprocess.run([ANALYZE, *map(str, arguments)], capture_output=True, encoding="utf-8", check=False)


@needs_systemd
def test_systemd_finds_nothing_to_complain_about(unit_file: Path, tmp_path: Path) -> None:
    # The program is not installed here, and systemd insists on that: another one stands in for it.
    text = unit_file.read_text(encoding="utf-8")
    stand_in = tmp_path / "kiosk.service"
    stand_in.write_text(text.replace("/opt/kiosk/venv/bin/kiosk ", f"{sys.executable} "), encoding="utf-8")
    assert stand_in.read_text(encoding="utf-8") != text

    verdict = analyze("verify", "--man=no", "--recursive-errors=no", stand_in)

    complaints = [line for line in verdict.stderr.splitlines() if "kiosk.service" in line]
    assert not complaints
    assert verdict.returncode == 0, verdict.stderr


@needs_systemd
def test_the_service_is_hardened(unit_file: Path) -> None:
    version = int(analyze("--version").stdout.split()[1])
    worst = WORST_EXPOSURE.get(version, WORST_EXPOSURE_ELSEWHERE)
    verdict = analyze("security", "--offline=true", f"--threshold={worst}", "--no-pager", unit_file)
    assert verdict.returncode == 0, verdict.stdout[-2000:] + verdict.stderr


def test_it_runs_the_installed_command(service: Mapping[str, list[str]]) -> None:
    assert service["ExecStart"] == ["/opt/kiosk/venv/bin/kiosk run --config /etc/kiosk/config.yaml"]
    # Whatever became of it, a relay is brought to rest.
    assert service["ExecStopPost"] == ["-/opt/kiosk/venv/bin/kiosk feedback off --config /etc/kiosk/config.yaml"]
    assert service["StateDirectory"] == ["kiosk"]  # /var/lib/kiosk: where store.path points by default
    assert service["SupplementaryGroups"] == ["video dialout"]


def test_it_is_watched_and_restarted_but_not_with_a_bad_configuration(service: Mapping[str, list[str]]) -> None:
    assert service["Type"] == ["notify"]
    assert service["WatchdogSec"] == ["30"]
    assert service["Restart"] == ["on-failure"]
    assert service["RestartPreventExitStatus"] == ["78"]


def test_no_copy_of_the_memory_and_no_secret_is_left_about(service: Mapping[str, list[str]]) -> None:
    assert service["LimitCORE"] == ["0"]
    assert service["LoadCredential"] == [
        "mqtt-password",
        "mqtt-key",
        "event-signing-key",
        "web-password",
        "store-key",
    ]  # from /etc/credstore; none need be there
    assert service["UMask"] == ["0077"]
    assert service["StateDirectoryMode"] == ["0700"]


def test_commands_outside_the_service_can_be_the_same_user(service: Mapping[str, list[str]]) -> None:
    assert service["User"] == ["kiosk"]
    assert "DynamicUser" not in service


def test_recognition_works_under_the_units_restrictions(
    service: Mapping[str, list[str]], samples: Path, tmp_path: Path, runtime: Runtime
) -> None:
    (tmp_path / "config.yaml").write_text(f"model: {{runtime: {runtime}}}\n", encoding="utf-8")
    command = [sys.executable, "-m", "kiosk", "verify", "--config", "config.yaml"]
    verdict = restrictions.run(service, [*command, samples / "obama.jpg", samples / "obama2.jpg"], tmp_path)
    assert verdict.returncode == 0, verdict.stderr
    assert verdict.stdout.startswith("True")


LOOK = """
import json, logging, mmap, os, sys
from kiosk.bundle import BUILT_IN, BUILT_IN_BUNDLE, read_bundle
from kiosk.detector import BlazeFaceDetector
from kiosk.embedder import TfliteEmbedder

def refused(call):
    try:
        call()
    except PermissionError:
        return True
    return False

logging.basicConfig(format="%(levelname)s %(message)s")
bundle, runtime = read_bundle(BUILT_IN / BUILT_IN_BUNDLE), sys.argv[1]
networks = [BlazeFaceDetector(runtime=runtime), *(TfliteEmbedder(bundle, threads=n, runtime=runtime) for n in (1, 2))]
kinds = [[part["op_name"] for part in network._interpreter._get_ops_details()] for network in networks]
json.dump({
    "delegated": [names.count("DELEGATE") for names in kinds],
    "writable_code": not refused(lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)),
    "chroot": not refused(lambda: os.chroot("/")),
    "cpuinfo": os.path.exists("/proc/cpuinfo"),
}, sys.stdout)
"""
"""Loads the kiosk's networks, and tells how many parts of each the runtime gave to its fast code (XNNPACK)."""


def look(settings: Mapping[str, list[str]], folder: Path, runtime: Runtime) -> tuple[dict[str, Any], list[str]]:
    """What ``LOOK`` finds under these settings of a unit, and the lines it logs."""
    run = restrictions.run(settings, [sys.executable, "-c", LOOK, runtime], folder)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout), run.stderr.splitlines()


def test_recognition_keeps_its_fast_code_under_the_units_restrictions(
    service: Mapping[str, list[str]], tmp_path: Path, runtime: Runtime
) -> None:
    free, _ = look({}, tmp_path, runtime)
    restricted, log = look(service, tmp_path, runtime)
    # Else nothing would have been restricted, or nothing could be lost.
    assert free.pop("writable_code")
    assert free.pop("chroot")
    detector, *embedders = free["delegated"]
    assert detector
    # tflite-runtime 2.14 gives it no network of integers.
    assert all(embedders) or runtime == "tflite-runtime"
    assert restricted == free | {"writable_code": False, "chroot": False}
    assert log == []


def test_recognition_without_cpuinfo_loses_its_fast_code_and_says_so_once(
    service: Mapping[str, list[str]], tmp_path: Path, runtime: Runtime
) -> None:
    found, log = look({**service, "ProcSubset": ["pid"]}, tmp_path, runtime)
    assert not found["cpuinfo"]
    assert found["delegated"] == [0, 0, 0]
    (line,) = log
    assert line.startswith("WARNING /proc/cpuinfo: No such file or directory: ")
    assert "take ProcSubset=pid out" in line


def test_it_avoids_what_slows_or_kills_the_model_runtime(service: Mapping[str, list[str]]) -> None:
    # Without /proc/cpuinfo XNNPACK stays off: many times slower, with the same results.
    assert "ProcSubset" not in service
    assert "/sys" not in " ".join(service.get("InaccessiblePaths", []))
    # NumPy's OpenBLAS calls mbind(), one of @resources, when it starts: the process would be killed.
    denied = " ".join(line for line in service["SystemCallFilter"] if line.startswith("~"))
    assert "@resources" not in denied or service["SystemCallErrorNumber"] == ["EPERM"]
    # It would hide the camera.
    assert service.get("PrivateDevices", ["no"]) == ["no"]
    assert service["DeviceAllow"] == [
        "char-video4linux rw",
        "char-media rw",
        "char-dma_heap rw",
        "char-ttyACM r",
        "char-ttyUSB r",
        "char-gpiochip rw",
    ]
    # libcamera does without netlink.
    assert service["RestrictAddressFamilies"] == ["AF_INET AF_INET6 AF_UNIX"]
