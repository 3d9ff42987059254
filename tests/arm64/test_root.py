"""Where no arm64 root can be had, one line says why; what a killed run has left is taken away."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import root
from root import Root, RootError

pytestmark = pytest.mark.stories


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--only", "package"], "--only package: --deb FILE is missing"),
        (["--deb", "nowhere.deb"], "--deb nowhere.deb: no such file"),
        (["--photos", "nowhere"], "--photos nowhere: no such folder"),
        (["sid"], "invalid choice: 'sid'"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    repo: Path, arguments: list[str], told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["arm64", *arguments])
    main = runpy.run_path(str(repo / "tests" / "arm64" / "__main__.py"), run_name="arm64")["main"]
    with pytest.raises(SystemExit, match="2"):
        main()
    assert told in capsys.readouterr().err


def test_without_rights_it_says_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(RootError, match=r"sudo \.venv/bin/just arm64"), root.registered_qemu():
        pass


def test_without_qemu_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr("shutil.which", lambda name: None if "qemu" in name else name)
    with pytest.raises(RootError, match="apt-get install debootstrap qemu-user-static"), root.registered_qemu():
        pass


def test_what_a_killed_run_has_registered_is_removed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The kernel removes an entry that "-1" is written to; an ordinary file keeps it."""
    monkeypatch.setattr(root, "_BINFMT", tmp_path)
    ended = subprocess.Popen(["true"])
    ended.wait()
    stale, own, other = (
        tmp_path / name for name in (f"kiosk-arm64-{ended.pid}", f"kiosk-arm64-{os.getpid()}", "qemu-aarch64")
    )
    for entry in (stale, own, other):
        entry.write_text("enabled")
    root._remove_stale()
    assert [entry.read_text() for entry in (stale, own, other)] == ["-1", "enabled", "enabled"]


def test_a_layer_begins_empty_on_top_of_all_others(tmp_path: Path) -> None:
    base = Root(tmp_path / "base")
    (tmp_path / "one" / "upper").mkdir(parents=True)
    (tmp_path / "one" / "upper" / "left").touch()
    one = base.layer(tmp_path / "one")
    two = one.layer(tmp_path / "two", shown=tmp_path)
    assert two.below == (tmp_path / "one" / "upper", tmp_path / "base")
    assert two.path("/venv/bin") == tmp_path / "two" / "upper" / "venv" / "bin"
    assert list(one.path("/").iterdir()) == []
    assert two.shown == {"/shown": tmp_path}
