"""The service unit is one systemd accepts, is hardened, and avoids what stops or slows the kiosk."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

ANALYZE = shutil.which("systemd-analyze")
needs_systemd = pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not on this machine")

WORST_EXPOSURE = 20
"""In tenths: "OK" on systemd's scale; a plain unit scores 92."""


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
    verdict = analyze("security", "--offline=true", f"--threshold={WORST_EXPOSURE}", "--no-pager", unit_file)
    assert verdict.returncode == 0, verdict.stdout[-2000:] + verdict.stderr


def test_it_runs_the_installed_command(service: Mapping[str, list[str]]) -> None:
    assert service["ExecStart"] == ["/opt/kiosk/venv/bin/kiosk run --config /etc/kiosk/config.yaml"]
    assert service["StateDirectory"] == ["kiosk"]  # /var/lib/kiosk: where store.path points by default
    assert service["SupplementaryGroups"] == ["video"]


def test_it_is_watched_and_restarted_but_not_with_a_bad_configuration(service: Mapping[str, list[str]]) -> None:
    assert service["Type"] == ["notify"]
    assert service["WatchdogSec"] == ["30"]
    assert service["Restart"] == ["on-failure"]
    assert service["RestartPreventExitStatus"] == ["78"]


def test_it_avoids_what_slows_or_kills_the_model_runtime(service: Mapping[str, list[str]]) -> None:
    # Without /proc/cpuinfo XNNPACK stays off: five to seventy times slower, with the same results.
    assert "ProcSubset" not in service
    assert "/sys" not in " ".join(service.get("InaccessiblePaths", []))
    # NumPy's OpenBLAS calls mbind(), one of @resources, when it starts: the process would be killed.
    denied = " ".join(line for line in service["SystemCallFilter"] if line.startswith("~"))
    assert "@resources" not in denied or service["SystemCallErrorNumber"] == ["EPERM"]
    # It would hide the camera.
    assert service.get("PrivateDevices", ["no"]) == ["no"]
    assert "char-video4linux rw" in service["DeviceAllow"]
