"""The Debian package's recipe fits the project. Its life on a real system: ``just appliance``."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from kiosk import build

RELEASES = {"bookworm": "3.11", "trixie": "3.13"}
SCRIPTS = ["build", *(f"attendance-kiosk.{name}" for name in ("preinst", "postinst", "prerm", "postrm"))]


@pytest.fixture(scope="module")
def debian(repo: Path) -> Path:
    return repo / "debian"


@pytest.fixture(scope="module")
def locked(debian: Path) -> list[Requirement]:
    text = (debian / "requirements.txt").read_text(encoding="utf-8")
    entries = re.findall(r"^([a-z].*?) *\\\n((?: +--hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", text, re.MULTILINE)
    # An entry without a hash would not have been found.
    assert len(entries) == len(re.findall(r"^[^#\s]", text, re.MULTILINE))
    return [Requirement(requirement) for requirement, _ in entries]


def test_the_lock_names_no_registry(debian: Path) -> None:
    assert not re.search(r"://|--index|--find-links", (debian / "requirements.txt").read_text(encoding="utf-8"))


@pytest.mark.parametrize("python", RELEASES.values())
@pytest.mark.parametrize("machine", ["aarch64", "x86_64"])
def test_the_lock_meets_every_declared_dependency_once(
    repo: Path, locked: list[Requirement], python: str, machine: str
) -> None:
    target = {
        "python_version": python,
        "python_full_version": f"{python}.2",
        "platform_machine": machine,
        "sys_platform": "linux",
        "platform_python_implementation": "CPython",
        "implementation_name": "cpython",
    }
    chosen = [entry for entry in locked if entry.marker is None or entry.marker.evaluate(target)]
    versions = {canonicalize_name(entry.name): str(entry.specifier).removeprefix("==") for entry in chosen}
    assert len(versions) == len(chosen)
    project = tomllib.loads((repo / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for text in [*project["dependencies"], *project["optional-dependencies"]["gpio"]]:
        wanted = Requirement(text)
        if wanted.marker is None or wanted.marker.evaluate(target):
            assert wanted.specifier.contains(versions[canonicalize_name(wanted.name)]), text


@pytest.mark.parametrize("script", SCRIPTS)
def test_its_scripts_are_ones_that_sh_understands(debian: Path, script: str) -> None:
    subprocess.run(["sh", "-n", debian / script], check=True)


def test_its_service_is_the_one_of_an_installation_by_hand(repo: Path, debian: Path) -> None:
    assert (debian / "attendance-kiosk.kiosk.service").resolve() == repo / "systemd" / "kiosk.service"


def test_releases_and_their_pythons_are_supported_ones(repo: Path, debian: Path) -> None:
    pythons = dict(re.findall(r"^PYTHON_(\w+) := (\S+)$", (debian / "rules").read_text(encoding="utf-8"), re.MULTILINE))
    assert pythons == RELEASES
    project = tomllib.loads((repo / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    supported = Requirement(f"x{project['requires-python']}").specifier
    assert all(supported.contains(f"{python}.0") for python in pythons.values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["jessie"], "unknown release jessie; bookworm or trixie"),
        (["trixie", "armhf"], "unknown architecture armhf; amd64 or arm64"),
        (["trixie", "arm64", "1~"], "the revision must be a number, not 1~"),
    ],
)
def test_what_it_cannot_build_is_told_in_one_line(debian: Path, arguments: list[str], message: str) -> None:
    run = subprocess.run([debian / "build", *arguments], capture_output=True, encoding="utf-8", check=False)
    assert (run.returncode, run.stdout, run.stderr) == (64, "", f"debian/build: {message}\n")


# kiosk --version


def test_an_installed_kiosk_tells_its_commit_and_who_installed_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "kiosk"
    folder.mkdir()
    monkeypatch.setattr(build, "_FOLDER", folder)
    monkeypatch.setattr(build, "_DISTRIBUTION", "attendance-kiosk-elsewhere")
    assert "(commit unknown, copied by hand, Python 3." in build.describe_build()

    monkeypatch.syspath_prepend(tmp_path)
    metadata = tmp_path / "attendance_kiosk_elsewhere-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: attendance-kiosk-elsewhere\nVersion: 1\n", "utf-8")
    (metadata / "INSTALLER").write_text("Debian package 1-1~deb12\n", encoding="utf-8")
    (folder / "commit.txt").write_text("1234567\n", encoding="utf-8")
    assert "(commit 1234567, Debian package 1-1~deb12, Python 3." in build.describe_build()


def test_a_folder_that_git_does_not_know_has_no_commit(tmp_path: Path) -> None:
    assert build.find_commit(tmp_path) is None
