"""What is installed holds what a first run needs; what it needs from others is declared down to tested lower bounds."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

import kiosk
from kiosk.build import find_commit


@pytest.fixture(scope="module")
def project(repo: Path) -> dict[str, Any]:
    settings: dict[str, Any] = tomllib.loads((repo / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return settings


def lower_bounds(requirements: Iterable[str]) -> dict[str, str]:
    """Package: the version its requirement starts at. A second entry without one only adds an upper bound."""
    found = {}
    for requirement in requirements:
        bound = re.match(r"([\w.-]+)(?:>=|==)([\w.]+)", requirement)
        if bound:
            found[bound[1].lower()] = bound[2]
    return found


def test_the_lowest_tested_versions_are_the_declared_bounds(repo: Path, project: dict[str, Any]) -> None:
    extras = project["optional-dependencies"]
    declared = lower_bounds([*project["dependencies"], *extras["demo"], *extras["tflite-runtime"]])
    lines = (repo / "tests" / "lowest-requirements.txt").read_text(encoding="utf-8").splitlines()
    assert lower_bounds(line for line in lines if not line.startswith("#")) == declared


def test_every_dependency_has_a_lower_bound_and_a_next_major_to_stop_at(project: dict[str, Any]) -> None:
    runtime = [*project["dependencies"], *project["optional-dependencies"]["demo"]]
    assert len(lower_bounds(runtime)) == len(runtime)
    # tzdata's versions are dates.
    assert [name for name in runtime if "<" not in name] == ["tzdata>=2024.1"]


def test_nothing_of_the_converter_comes_with_the_kiosk(project: dict[str, Any]) -> None:
    names = " ".join(project["dependencies"]).lower()
    assert not [name for name in ("tensorflow", "keras", "h5py", "torch") if name in names]


@pytest.mark.skipif(not importlib.util.find_spec("hatchling"), reason="needs the test extra: hatchling")
def test_the_wheel_holds_code_models_and_samples_and_nothing_else(repo: Path, tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=repo,
        capture_output=True,
        check=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name == f"attendance_kiosk-{kiosk.__version__}-py3-none-any.whl"
    names = set(zipfile.ZipFile(wheel).namelist())
    commit = find_commit(repo)
    assert commit is None or zipfile.ZipFile(wheel).read("kiosk/commit.txt").decode() == f"{commit}\n"
    shipped = {str(path.relative_to(repo)) for path in (repo / "kiosk" / "data").rglob("*") if path.is_file()}
    assert shipped
    assert shipped <= names
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"kiosk", "convert"}
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
