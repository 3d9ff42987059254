"""A start with a bundle that does not do: the kiosk goes on with the last good one, and says so everywhere."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
from broken_bundles import make_bundle, swap_weights, truncate
from command_line import Kiosk
from runner import assert_one_line_error

from kiosk.biometrics import Box
from kiosk.bundle import BUILT_IN, BUILT_IN_BUNDLE, read_bundle
from kiosk.bundle_choice import FORMER, NOTES, Refusal, Starting, choose_bundle, read_notes, update_notes
from kiosk.clip import Person, Scene, Walk, write_clip
from kiosk.config import Config
from kiosk.errors import ConfigError, ModelError
from kiosk.model_start import ModelStart, Requirement, model_start
from kiosk.photo import read_photo
from kiosk.pipeline import check_stand_in
from kiosk.store import Store


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


def start(
    models: Path,
    *,
    ends: Literal["well", "in order", "killed"] = "well",
    require: Requirement = lambda _bundle, _asked: None,
) -> ModelStart:
    """A start of the kiosk that ends well, in order before it was ready, or as a killed process does: not at all."""
    block = model_start("auto", models, threads=1, runtime="auto", require=require)
    begun = block.__enter__()
    if ends == "well":
        begun.succeed()
    if ends == "killed":
        begun._open = False
    block.__exit__(None, None, None)
    return begun


def trials_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, line: str) -> None:
    """What a trial's process does, in the shell; $5 is the bundle's folder."""
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\n{line}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every trial passes: it is not what these tests are about."""
    trials_end(monkeypatch, tmp_path, "exit 0")


@pytest.mark.usefixtures("quick")
def test_what_started_well_before_is_not_tried_again(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = make_bundle(models / "mine")
    assert start(models).bundle.model_id == mine.model_id
    trials_end(monkeypatch, tmp_path, "exit 1")
    assert start(models).bundle.model_id == mine.model_id
    assert start(models, ends="in order").bundle.model_id == mine.model_id
    notes = read_notes(models)
    assert (notes.starting, [mark.model for mark in notes.good]) == (None, [mine.model_id])


def test_who_has_never_run_is_told(models: Path) -> None:
    make_bundle(models / "mine")
    truncate(models / "mine")
    with pytest.raises(ModelError, match="mine"):
        start(models)
    assert read_notes(models).refused == {}


def rot(folder: Path) -> None:
    (folder / "model.tflite").write_bytes(b"rotten")


@pytest.mark.stories
@pytest.mark.parametrize("damage", [rot, truncate, swap_weights])
def test_a_bundle_that_fails_gives_way_to_the_build_before_it(
    models: Path, tmp_path: Path, damage: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    former = make_bundle(models / FORMER / "mine", tail=b"former")
    update_notes(models, lambda notes: notes.with_good(former))
    make_bundle(models / "mine", tail=b"newer")
    damage(models / "mine")
    gone = start(models)
    assert (gone.bundle.fingerprint, gone.bundle.folder, gone.gone_back) == (
        former.fingerprint,
        models / FORMER / "mine",
        True,
    )
    assert gone.unwanted
    assert str(models / "mine") in str(gone.why)
    # The next ones know, and so do all commands.
    trials_end(monkeypatch, tmp_path, "exit 1")
    again = start(models)
    assert (again.bundle.fingerprint, again.gone_back, again.unwanted) == (former.fingerprint, False, True)
    assert choose_bundle("auto", models).bundle.fingerprint == former.fingerprint


@pytest.mark.usefixtures("quick")
def test_without_a_former_build_it_is_the_last_good_of_another_name(models: Path) -> None:
    assert start(models).bundle.built_in
    other = make_bundle(models / "other", name="other")
    assert start(models).bundle.fingerprint == other.fingerprint
    rot(models / "other")
    assert start(models).bundle.manifest.name == BUILT_IN_BUNDLE


def test_a_start_that_did_not_survive_is_examined(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert start(models).bundle.built_in
    mine = make_bundle(models / "mine")
    update_notes(models, lambda notes: notes.with_good(mine))
    trials_end(monkeypatch, tmp_path, "exit 0")
    assert start(models, ends="killed").bundle.fingerprint == mine.fingerprint
    trials_end(monkeypatch, tmp_path, 'case "$5" in */mine) kill -SEGV $$;; esac')
    gone = start(models)
    assert (gone.bundle.built_in, gone.gone_back) == (True, True)
    assert "SIGSEGV" in str(gone.why)
    assert mine.fingerprint in read_notes(models).refused


@pytest.mark.usefixtures("quick")
def test_a_bundle_that_survives_no_start_is_given_up_though_it_passes(models: Path) -> None:
    assert start(models).bundle.built_in
    mine = make_bundle(models / "mine")
    for _ in range(3):
        assert start(models, ends="killed").bundle.fingerprint == mine.fingerprint
    gone = start(models)
    assert gone.bundle.built_in
    assert "did not survive 3 starts" in str(gone.why)


@pytest.mark.usefixtures("quick")
def test_where_nothing_else_has_run_giving_up_is_told_and_tried_again(models: Path) -> None:
    make_bundle(models / "mine")
    for _ in range(3):
        start(models, ends="killed")
    with pytest.raises(ModelError, match="did not survive 3 starts"):
        start(models)
    assert start(models).unfinished


def with_threshold(threshold: float | None, bundle: str = "auto") -> Requirement:
    settings = {"match": {} if threshold is None else {"threshold": threshold}, "model": {"bundle": bundle}}
    config = Config.model_validate(settings)
    return lambda other, asked: check_stand_in(config, other, asked)


@pytest.mark.usefixtures("quick")
def test_a_threshold_in_numbers_is_not_taken_to_another_network(models: Path) -> None:
    assert start(models).bundle.built_in
    source = read_bundle(BUILT_IN / BUILT_IN_BUNDLE).manifest.source.model_dump()
    mine = make_bundle(models / "mine", source=source | {"sha256": "0" * 64})
    for _ in range(3):
        start(models, ends="killed")
    with pytest.raises(ModelError, match="did not survive 3 starts"):
        start(models, require=with_threshold(0.6))
    assert read_notes(models).refused == {}
    update_notes(
        models, lambda notes: notes.model_copy(update={"starting": Starting(fingerprint=mine.fingerprint, attempts=3)})
    )
    assert start(models, require=with_threshold(None)).bundle.built_in
    # Nor later, when another has come to stand in already.
    with pytest.raises(ConfigError, match="another network's scores"):
        start(models, require=with_threshold(0.6))


def test_a_threshold_in_numbers_is_taken_to_another_build_of_the_network(tmp_path: Path) -> None:
    mine, other = make_bundle(tmp_path / "mine"), read_bundle(BUILT_IN / BUILT_IN_BUNDLE)
    with_threshold(0.9)(other, mine)
    with_threshold(0.9, "mine")(mine, None)
    with pytest.raises(ConfigError, match="another network's scores"):
        with_threshold(0.9)(other, None)


@pytest.mark.usefixtures("quick")
def test_power_cuts_hold_nothing_against_what_was_good(models: Path) -> None:
    mine = make_bundle(models / "mine")
    start(models)
    for _ in range(4):
        assert start(models, ends="killed").bundle.fingerprint == mine.fingerprint
    assert start(models).why is None


def test_where_every_bundle_fails_the_first_failure_is_told(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = make_bundle(models / "mine")
    update_notes(models, lambda notes: notes.with_good(mine))
    rot(models / "mine")
    trials_end(monkeypatch, tmp_path, "exit 1")
    with pytest.raises(ModelError, match=r"mine/model\.tflite: SHA-256"):
        start(models)
    assert read_notes(models).stand_in is None


@pytest.mark.usefixtures("quick")
def test_what_is_set_aside_stays_so_when_a_better_one_has_come_and_gone(models: Path) -> None:
    mine = make_bundle(models / "mine")
    refusal = Refusal(model=mine.model_id, why="a test", at="2026-03-02T07:58:13.412Z", by_hand=True)
    update_notes(models, lambda notes: notes.with_refused(mine, refusal, read_bundle(BUILT_IN / BUILT_IN_BUNDLE)))
    assert choose_bundle("auto", models).bundle.built_in
    better = make_bundle(models / "better", name="better", tail=b"better")
    update_notes(models, lambda notes: notes.with_installed(better))
    shutil.rmtree(models / "better")
    choice = choose_bundle("auto", models)
    assert (choice.bundle.built_in, choice.unwanted) == (True, False)
    assert "is set aside by hand" in str(choice.why)
    assert not start(models).gone_back
    update_notes(models, lambda notes: notes.with_installed(mine))
    assert choose_bundle("auto", models).bundle.fingerprint == mine.fingerprint


@pytest.mark.parametrize("content", [b"", b"no json", b"[" * 9000, b'{"good": 1}', b"[]"])
def test_notes_that_cannot_be_read_are_none(models: Path, content: bytes) -> None:
    (models / NOTES).write_bytes(content)
    assert start(models).bundle.built_in
    assert read_notes(models).good


def test_notes_that_others_may_have_written_do_not_count(models: Path) -> None:
    start(models)
    assert (models / NOTES).stat().st_mode & 0o777 == 0o600
    (models / NOTES).chmod(0o666)
    assert read_notes(models).good == ()


def test_a_folder_that_cannot_be_written_keeps_nobody_from_starting(
    models: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    assert start(models).bundle.built_in
    assert "cannot be noted" in caplog.text


@pytest.mark.stories
def test_the_door_goes_on_and_says_so(kiosk: Kiosk, samples: Path, tmp_path: Path) -> None:
    obama = Person(read_photo(samples / "obama.jpg"), Box(208, 127, 204, 204))
    write_clip(tmp_path / "clip.avi", [Scene(1.0, (Walk(obama, x=(0.45, 0.55), face_px=(120, 130)),)), Scene(0.3)])
    kiosk.configure(camera={"source": str(tmp_path / "clip.avi"), "pace": "fast"})
    assert kiosk("enroll", "obama", samples / "obama2.jpg").returncode == 0
    (kiosk.folder / "models").mkdir()
    update_notes(kiosk.folder / "models", lambda notes: notes.with_good(read_bundle(BUILT_IN / BUILT_IN_BUNDLE)))
    make_bundle(tmp_path / "broken", name="broken")
    broken = swap_weights(tmp_path / "broken")
    refused = kiosk("model", "install", broken.folder, "--yes")
    assert refused.returncode == 69
    assert "the self-test fails" in assert_one_line_error(refused.stderr)
    # However it came there.
    shutil.copytree(broken.folder, kiosk.folder / "models" / "broken")
    done = kiosk("run")
    assert done.returncode == 0, done.stderr
    assert "stands in for the bundle that is asked for: 0 of 1 subjects cannot be recognized" in done.stderr
    assert "check_in of obama" in done.stderr
    with Store.open(kiosk.store) as store:
        row = next(row for row in store.audit_rows() if row.action == "rollback_model")
    assert row.process == "daemon"
    assert "the self-test fails" in row.detail()["why"]
    checks = {check["name"]: check for check in json.loads(kiosk("check", "--json").stdout)["checks"]}
    assert checks["model"]["status"] == "warn"
    assert "STANDS in for" in checks["model"]["message"]
