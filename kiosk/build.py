"""Which build this is: version, commit, how it came here, and the Python it runs on."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

_FOLDER = Path(__file__).parent
_DISTRIBUTION = "attendance-kiosk"
_GIT_S = 5.0


def describe_build() -> str:
    """One line, as a report of a fault needs it."""
    # hatch_build.py runs this file where there is no package yet.
    from kiosk import __version__

    checkout = _FOLDER.parent
    if (checkout / "pyproject.toml").is_file():
        commit, source = find_commit(checkout), "source checkout"
    else:
        commit, source = _stamped_commit(), _installer()
    python = f"Python {platform.python_version()} on {platform.machine()}"
    return f"{__version__} (commit {commit or 'unknown'}, {source}, {python})"


def find_commit(checkout: Path) -> str | None:
    """Of a folder that git knows, as ``git describe`` shortens it, ``-dirty`` if files were changed since."""
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--exclude", "*"]
    try:
        run = subprocess.run(command, capture_output=True, encoding="utf-8", check=True, timeout=_GIT_S)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None
    return run.stdout.strip() or None


def _stamped_commit() -> str | None:
    """What hatch_build.py wrote when the wheel was built."""
    try:
        return (_FOLDER / "commit.txt").read_text(encoding="utf-8").strip()
    except OSError:
        return None


def _installer() -> str:
    try:
        return (distribution(_DISTRIBUTION).read_text("INSTALLER") or "").strip() or "installed by hand"
    except PackageNotFoundError:
        return "copied by hand"
