"""The dependency rules hold, they cover every module, and the command line starts without the heavy libraries."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

HEAVY = {"ai_edge_litert", "cv2", "matplotlib", "numpy", "paho", "pydantic", "sqlite_utils", "tflite_runtime", "yaml"}
PIXELS = {"encoded", "align", "opencv", "quality"}
"""May use OpenCV although they lie among the core."""
CONVERTER_MAY_USE = {
    "align",
    "biometrics",
    "bundle",
    "charts",
    "detector",
    "embedder",
    "encoded",
    "errors",
    "logs",
    "opencv",
    "pad",
    "photo",
    "ports",
    "preprocessing",
    "quality",
    "selftest",
    "tflite",
    "thresholds",
}


def modules(repo: Path) -> set[str]:
    children = (repo / "kiosk").iterdir()
    found = {path.stem for path in children if path.suffix == ".py" or (path / "__init__.py").exists()}
    return found - {"__init__", "__main__"}


def contract(repo: Path, words: str) -> dict[str, list[str]]:
    settings = tomllib.loads((repo / "pyproject.toml").read_text(encoding="utf-8"))
    found: dict[str, list[str]] = next(
        contract for contract in settings["tool"]["importlinter"]["contracts"] if words in contract["name"]
    )
    return found


@pytest.mark.skipif(not importlib.util.find_spec("importlinter"), reason="needs the dev extra: import-linter")
def test_imports_follow_the_rules(repo: Path) -> None:
    linter = subprocess.run(
        [sys.executable, "-c", "import importlinter.cli as c; c.lint_imports_command()", "--no-cache"],
        cwd=repo,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert linter.returncode == 0, linter.stdout + linter.stderr
    assert "0 broken" in linter.stdout


def test_the_converters_rule_names_every_module_it_may_not_use(repo: Path) -> None:
    forbidden = {name.removeprefix("kiosk.") for name in contract(repo, "converter measures")["forbidden_modules"]}
    assert forbidden == modules(repo) - CONVERTER_MAY_USE


def test_the_cores_rule_names_every_module_below_the_adapters(repo: Path) -> None:
    layers = contract(repo, "one way")["layers"]
    lowest_adapters = layers.index("integrity | tflite")
    below = {name for layer in layers[lowest_adapters + 1 :] for name in layer.split(" | ")}
    core = {name.removeprefix("kiosk.") for name in contract(repo, "core touches")["source_modules"]}
    assert core == below - PIXELS


@pytest.mark.parametrize("module", ["kiosk.cli", "kiosk.__main__", "convert.cli"])
def test_the_command_line_starts_without_heavy_imports(repo: Path, module: str) -> None:
    script = f"import sys, {module}; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    run = subprocess.run(
        [sys.executable, "-c", script],
        cwd=repo,
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    assert not HEAVY & set(run.stdout.split()) - ({"yaml"} if module == "convert.cli" else set())


def test_help_and_version_import_nothing_heavy_either(repo: Path) -> None:
    script = (
        "import sys\n"
        "from kiosk.cli import run\n"
        "run(['--help']); run(['--version'])\n"
        "print('imported', *sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    run = subprocess.run(
        [sys.executable, "-c", script],
        cwd=repo,
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    imported = run.stdout.splitlines()[-1].split()
    assert imported[0] == "imported"
    assert not HEAVY & set(imported)
