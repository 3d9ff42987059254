"""Models from elsewhere are tried out in another process first: what dies, hangs or devours there does no harm here."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import Kiosk
from runner import assert_one_line_error

from kiosk import trial
from kiosk.bundle import BUILT_IN, BUILT_IN_BUNDLE, Bundle, read_bundle
from kiosk.errors import ModelError
from kiosk.tflite import Runtime
from kiosk.trial import VERDICTS, try_model


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    shutil.copytree(BUILT_IN / BUILT_IN_BUNDLE, folder / "mine")
    return folder


@pytest.fixture
def bundle(models: Path) -> Bundle:
    return read_bundle(models / "mine")


def replace_model(folder: Path, content: bytes) -> Bundle:
    """Another model, with a manifest that says so."""
    (folder / "model.tflite").write_bytes(content)
    return edit(folder, tflite_sha256=hashlib.sha256(content).hexdigest())


def edit(folder: Path, **changes: object) -> Bundle:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return read_bundle(folder)


def run_instead(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, line: str) -> None:
    """Whatever the next trial runs, it ends like this."""
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\n{line}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))


def test_a_good_model_is_tried_once(
    bundle: Bundle, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runtime: Runtime
) -> None:
    try_model(bundle, models, threads=1, runtime=runtime)
    run_instead(monkeypatch, tmp_path, "exit 1")
    try_model(bundle, models, threads=1, runtime=runtime)
    changed = edit(models / "mine", preprocessing="fixed-127.5-128")
    with pytest.raises(ModelError):
        try_model(changed, models, threads=1, runtime=runtime)


def test_the_kiosks_own_is_not_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runtime: Runtime) -> None:
    run_instead(monkeypatch, tmp_path, "exit 1")
    try_model(read_bundle(BUILT_IN / BUILT_IN_BUNDLE), tmp_path, threads=1, runtime=runtime)
    assert not (tmp_path / VERDICTS).exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("kill -SEGV $$", r"crashes the runtime \(SIGSEGV\)"),
        ("kill -KILL $$", r"crashes the runtime \(SIGKILL\)"),
        ("exec sleep 60", "hangs: no answer"),
        ("echo why; exit 69", "^why$"),
        ("exit 3", "cannot be used"),
    ],
)
def test_what_happens_to_the_child_is_told(
    bundle: Bundle, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, message: str
) -> None:
    run_instead(monkeypatch, tmp_path, line)
    monkeypatch.setattr(trial, "_TIMEOUT_S", 0.5)
    with pytest.raises(ModelError, match=message):
        try_model(bundle, models, threads=1, runtime="auto")
    assert not (models / VERDICTS).exists()


@pytest.mark.parametrize("content", [b"", b"no list", b"[" * 9000, b'{"a": 1}', b"[1, null]"])
def test_a_damaged_list_of_verdicts_is_no_list(bundle: Bundle, models: Path, content: bytes, runtime: Runtime) -> None:
    (models / VERDICTS).write_bytes(content)
    try_model(bundle, models, threads=1, runtime=runtime)
    assert json.loads((models / VERDICTS).read_text()) == [trial._key(bundle, runtime)]


def test_what_others_may_have_written_does_not_count(
    bundle: Bundle, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runtime: Runtime
) -> None:
    try_model(bundle, models, threads=1, runtime=runtime)
    assert (models / VERDICTS).stat().st_mode & 0o777 == 0o600
    (models / VERDICTS).chmod(0o666)
    run_instead(monkeypatch, tmp_path, "exit 1")
    with pytest.raises(ModelError):
        try_model(bundle, models, threads=1, runtime=runtime)


def test_a_child_gets_no_more_than_its_memory_and_leaves_no_core_dump() -> None:
    program = (
        "import resource; from kiosk.trial import _limit; _limit()\n"
        "assert resource.getrlimit(resource.RLIMIT_CORE) == (0, 0)\n"
        "bytearray(2 << 30)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stderr.strip().endswith("MemoryError")


@pytest.mark.parametrize("share", [0.3, 0.95])
def test_a_cut_off_model_is_one_line_whatever_it_does_to_the_runtime(kiosk: Kiosk, models: Path, share: float) -> None:
    content = (models / "mine" / "model.tflite").read_bytes()
    replace_model(models / "mine", content[: int(len(content) * share)])
    result = kiosk("model", "install", models / "mine", "--yes")
    assert result.returncode == 69
    assert str(models / "mine") in assert_one_line_error(result.stderr)
    assert not (kiosk.folder / "models" / BUILT_IN_BUNDLE).exists()


def test_a_model_for_something_else_is_one_line(models: Path, runtime: Runtime) -> None:
    detector = (BUILT_IN / "blazeface-short-range.tflite").read_bytes()
    with pytest.raises(ModelError, match="the manifest says"):
        try_model(replace_model(models / "mine", detector), models, threads=1, runtime=runtime)
