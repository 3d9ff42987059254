"""Putting bundles in place: whatever interrupts it, the old one or the new one is there, whole."""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
from broken_bundles import make_bundle, with_model
from test_store_disk import mount, occupy, run

from kiosk.bundle import Bundle, read_bundle
from kiosk.bundle_choice import FORMER
from kiosk.commands.bundle_files import copy_bundle, delete_bundle
from kiosk.errors import KioskError, StoreError
from kiosk.model_start import sweep


def build(folder: Path, number: int) -> Bundle:
    """Nobody looks into the network here: a short one will do."""
    make_bundle(folder)
    return with_model(folder, b"build %d" % number, report={}, known_answers=[])


@pytest.fixture
def builds(tmp_path: Path) -> list[Bundle]:
    return [build(tmp_path / f"build{number}", number) for number in range(3)]


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return tmp_path / "home" / "models"


def installed(models: Path) -> str:
    return read_bundle(models / "mine").fingerprint


def install(bundle: Bundle, models: Path) -> None:
    copy_bundle(bundle, models / "mine", nullcontext())


def leftovers(models: Path) -> list[str]:
    return sorted(path.name for path in models.iterdir() if path.name not in {"mine", FORMER})


def test_the_former_build_is_kept_and_one_only(builds: list[Bundle], models: Path) -> None:
    for bundle in builds:
        install(bundle, models)
    assert installed(models) == builds[2].fingerprint
    assert [read_bundle(path).fingerprint for path in (models / FORMER).iterdir()] == [builds[1].fingerprint]
    install(builds[2], models)
    assert read_bundle(models / FORMER / "mine").fingerprint == builds[1].fingerprint
    delete_bundle(models / "mine", nullcontext())
    assert (leftovers(models), list((models / FORMER).iterdir())) == ([], [])


def test_a_damaged_build_is_not_kept_as_one_to_go_back_to(builds: list[Bundle], models: Path) -> None:
    install(builds[0], models)
    install(builds[1], models)
    (models / "mine" / "model.tflite").write_bytes(b"rotten")
    install(builds[2], models)
    assert read_bundle(models / FORMER / "mine").fingerprint == builds[0].fingerprint


def test_what_else_lies_in_an_installed_bundle_is_in_nobodys_way(builds: list[Bundle], models: Path) -> None:
    install(builds[0], models)
    (models / "mine" / "notes").mkdir()
    (models / "mine" / "link").symlink_to("/etc/passwd")
    install(builds[1], models)
    kept = {path.name for path in (models / FORMER / "mine").iterdir()}
    assert kept == {"manifest.json", "model.tflite", "report.md"}


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS])
def test_a_disk_that_cannot_exchange_is_served_as_well(
    builds: list[Bundle], models: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object) -> int:
        ctypes.set_errno(number)
        return -1

    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: SimpleNamespace(renameat2=refuse))
    install(builds[0], models)
    install(builds[1], models)
    assert (installed(models), leftovers(models)) == (builds[1].fingerprint, [])


_KILLED = """
import os, shutil, signal, sys
from contextlib import nullcontext
from pathlib import Path
from kiosk.bundle import read_bundle
from kiosk.commands.bundle_files import copy_bundle, delete_bundle

source, work, build = map(Path, sys.argv[1:])
bundle = None if build == Path("-") else read_bundle(build)
watched = {"open", "os.rename", "os.link", "os.mkdir", "os.remove", "os.rmdir", "ctypes.dlsym", "shutil.copyfile"}
last = steps = 0

def count(event, arguments):
    global steps
    if last and event in watched:
        steps += 1
        if steps == last:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(count)
for number in range(1, 1000):
    models = work / str(number)
    shutil.copytree(source, models, copy_function=os.link)
    child = os.fork()
    if not child:
        last = number
        try:
            if bundle is None:
                delete_bundle(models / "mine", nullcontext())
            else:
                copy_bundle(bundle, models / "mine", nullcontext())
        except BaseException as error:
            print(error, flush=True)
            os._exit(1)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    if os.WIFEXITED(status):
        sys.exit(os.WEXITSTATUS(status))
sys.exit("no end")
"""


def killed_at_every_step(models: Path, work: Path, build: Path | str) -> list[Path]:
    work.mkdir()
    command = [sys.executable, "-W", "ignore", "-c", _KILLED, str(models), str(work), str(build)]
    result = subprocess.run(command, check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    folders = sorted(work.iterdir(), key=lambda folder: int(folder.name))
    assert len(folders) > 10
    return folders


@pytest.mark.faults
def test_killed_at_every_step_of_an_update(builds: list[Bundle], models: Path, tmp_path: Path) -> None:
    oldest, old, new = (bundle.fingerprint for bundle in builds)
    install(builds[0], models)
    install(builds[1], models)
    seen = []
    for folder in killed_at_every_step(models, tmp_path / "work", builds[2].folder):
        seen.append(installed(folder))
        former = folder / FORMER / "mine"
        kept = read_bundle(former).fingerprint if former.exists() else None
        # Never the new one alone: there is always one to go back to once it is in place.
        assert (seen[-1], kept) in {(old, oldest), (old, None), (old, old), (new, old)}
        sweep(folder)
        assert leftovers(folder) == []
        install(builds[2], folder)
        assert (installed(folder), read_bundle(former).fingerprint) == (new, old)
    assert seen == sorted(seen, key=[old, new].index)
    assert {old, new} == set(seen)


@pytest.mark.faults
def test_killed_at_every_step_of_a_first_installation_and_a_removal(
    builds: list[Bundle], models: Path, tmp_path: Path
) -> None:
    models.mkdir(parents=True)
    for folder in killed_at_every_step(models, tmp_path / "first", builds[0].folder):
        assert not (folder / "mine").exists() or installed(folder) == builds[0].fingerprint
    install(builds[0], models)
    install(builds[1], models)
    for folder in killed_at_every_step(models, tmp_path / "removal", "-"):
        assert not (folder / "mine").exists() or installed(folder) == builds[1].fingerprint
        sweep(folder)
        assert leftovers(folder) == []


def test_a_full_disk_leaves_everything_as_it_was(builds: list[Bundle], tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount("-t", "tmpfs", "-o", "size=1m", "none", disk)
    try:
        models = disk / "models"
        install(builds[0], models)
        install(builds[1], models)
        large = with_model(builds[2].folder, os.urandom(300_000))
        occupy(disk, leave_bytes=100_000)
        with pytest.raises(StoreError, match=r"mine: cannot be written: No space left on device; free some space$"):
            install(large, models)
        assert (installed(models), leftovers(models)) == (builds[1].fingerprint, [])
        assert read_bundle(models / FORMER / "mine").fingerprint == builds[0].fingerprint
        (disk / "ballast").unlink()
        install(large, models)
        assert installed(models) == large.fingerprint
    finally:
        run("umount", "-l", disk)


def test_a_source_that_changes_meanwhile_is_not_installed(builds: list[Bundle], models: Path) -> None:
    install(builds[0], models)
    stale = Bundle(builds[1].folder, builds[2].manifest)
    with pytest.raises(KioskError, match="changed while it was copied"):
        install(stale, models)
    assert (installed(models), leftovers(models)) == (builds[0].fingerprint, [])
