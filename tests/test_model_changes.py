"""Another model for a gallery that has people in it: what is said before, what happens, and the ways out of it."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from broker import wait_for
from command_line import Kiosk
from runner import assert_one_line_error, copy_store, dump

from kiosk.biometrics import Box, ModelId, SubjectId
from kiosk.bundle import BUILT_IN, BUILT_IN_BUNDLE, read_bundle
from kiosk.clip import Person, Scene, Walk, write_clip
from kiosk.opencv import cv2
from kiosk.store import NewTemplate, Store

pytestmark = pytest.mark.stories

BUILT_IN_MODEL = read_bundle(BUILT_IN / BUILT_IN_BUNDLE).model_id
OTHER = "other-int8"
OTHER_MODEL = BUILT_IN_MODEL.replace(BUILT_IN_BUNDLE, OTHER)


@pytest.fixture
def home(kiosk: Kiosk, _home: Kiosk) -> Kiosk:
    """Obama and Biden enrolled with the built-in bundle, for this test alone."""
    copy_store(_home, kiosk)
    return kiosk


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """Another model: the same network under another name, so that its scores are known to be right."""
    return _bundle(tmp_path / "delivered", OTHER)


@pytest.fixture
def people(tmp_path: Path, samples: Path) -> Path:
    """Photos of Obama (one he was enrolled from, one not) and of somebody nobody knows; none of Biden."""
    folder = tmp_path / "people"
    for subject_id, photos in {"obama": ("obama.jpg", "obama2.jpg"), "stranger": ("collins.jpg",)}.items():
        (folder / subject_id).mkdir(parents=True)
        for photo in photos:
            shutil.copy(samples / photo, folder / subject_id)
    return folder


def _bundle(folder: Path, name: str, *, tail: bytes = b"", **changes: object) -> Path:
    """A copy of the built-in bundle; bytes behind the end of the network change its hash and nothing else."""
    shutil.copytree(BUILT_IN / BUILT_IN_BUNDLE, folder)
    model = folder / "model.tflite"
    model.write_bytes(model.read_bytes() + tail)
    manifest = folder / "manifest.json"
    sha256 = hashlib.sha256(model.read_bytes()).hexdigest()
    document = json.loads(manifest.read_text()) | {"name": name, "tflite_sha256": sha256} | changes
    manifest.write_text(json.dumps(document))
    return folder


def _decisions(kiosk: Kiosk, *photos: Path, bundle: str = "auto") -> list[tuple[str, str | None]]:
    """Decision and subject of the only face of each photo."""
    result = kiosk("identify", *photos, "--json", env={"KIOSK_MODEL__BUNDLE": bundle})
    assert result.returncode == 0, result.stderr
    faces = [image["faces"][0] for image in json.loads(result.stdout)["images"]]
    return [(face["decision"], face["subject_id"]) for face in faces]


def _subjects(kiosk: Kiosk) -> dict[str, dict[str, object]]:
    return {s["subject_id"]: s for s in json.loads(kiosk("subjects", "list", "--json").stdout)["subjects"]}


def _check(kiosk: Kiosk, name: str) -> tuple[str, str]:
    checks = json.loads(kiosk("check", "--json").stdout)["checks"]
    return next((check["status"], check["message"]) for check in checks if check["name"] == name)


def _in_use(kiosk: Kiosk) -> str:
    document: dict[str, list[dict[str, str]]] = json.loads(kiosk("model", "list", "--json").stdout)
    return next(bundle["model"] for bundle in document["bundles"] if bundle["in_use"])


def _installed(kiosk: Kiosk) -> list[str]:
    # What is noted, and former builds, are none that are installed; anything else with a dot is a leftover.
    notes = {".tried.json", ".use.json", ".former"}
    return sorted(path.name for path in (kiosk.folder / "models").glob("*") if path.name not in notes)


def test_nobody_enrolled_nobody_lost(kiosk: Kiosk, other: Path) -> None:
    result = kiosk("model", "install", other)
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[0].startswith(f"in use now: {BUILT_IN_MODEL}, accuracy ")
    assert lines[1].startswith(f"in use afterwards: {OTHER_MODEL}, accuracy ")
    assert "nobody is enrolled yet" in lines
    assert lines[-1] == f"{OTHER} installed in {kiosk.folder / 'models' / OTHER}"
    assert not kiosk.store.exists()


def test_people_would_be_lost_and_nobody_can_be_asked(home: Kiosk, other: Path) -> None:
    before = dump(home.store)
    result = home("model", "install", other, stdin="y\n")
    assert result.returncode == 64
    line = assert_one_line_error(result.stderr)
    assert "2 subjects would not be recognized any more (biden, obama)" in line
    assert "--yes" in line
    assert "--photos DIR" in line
    assert f"in use afterwards: {OTHER_MODEL}" in result.stdout
    assert f"0 of 2 subjects have templates of {OTHER_MODEL}" in result.stdout
    assert "2 subjects will NOT be recognized until enrolled again: biden, obama" in result.stdout
    assert f"model.bundle: {BUILT_IN_BUNDLE}" in result.stdout
    assert _installed(home) == []
    assert dump(home.store) == before


def test_the_first_few_in_words_everybody_in_json(kiosk: Kiosk, other: Path) -> None:
    ids = [f"E{number}" for number in range(1, 8)]
    with Store.open(kiosk.store) as store:
        for subject_id, row in zip(ids, np.eye(7, 128, dtype=np.float32), strict=True):
            store.enroll(SubjectId(subject_id), [NewTemplate(BUILT_IN_MODEL, row)], name=subject_id)
    result = kiosk("model", "install", other, "--json")
    assert result.returncode == 64
    assert "(E1, E2, E3, E4, E5 and 2 more)" in assert_one_line_error(result.stderr)
    document = json.loads(result.stdout)
    assert document["installed"] is False
    assert document["subjects"] == {"with_templates": 7, "recognized": 0, "unrecognized": ids, "lost": ids}
    before, after = document["in_use"]["before"], document["in_use"]["after"]
    assert (before["model"], after["model"]) == (BUILT_IN_MODEL, OTHER_MODEL)
    # The threshold follows the size of the gallery, and seven people have left it: one alone has no crowd.
    assert before["threshold"] < after["threshold"]


@pytest.mark.parametrize(("answer", "code"), [("y", 0), ("n", 65), ("", 65)])
def test_at_a_terminal_it_asks(home: Kiosk, other: Path, answer: str, code: int) -> None:
    out, returncode = _at_a_terminal(home, answer, "model", "install", other)
    assert returncode == code, out
    assert "2 subjects would not be recognized any more (biden, obama). Install other-int8 all the same? [y/N]" in out
    assert _installed(home) == ([OTHER] if code == 0 else [])


def _at_a_terminal(kiosk: Kiosk, answer: str, *arguments: str | Path) -> tuple[str, int]:
    """Run a command on a terminal of its own, and type one line; returns all it showed and its exit code."""
    terminal, inside = pty.openpty()
    process = subprocess.Popen(
        kiosk._command(arguments),
        env=kiosk._environment_with(None),
        cwd=kiosk.folder,
        stdin=inside,
        stdout=inside,
        stderr=inside,
    )
    os.close(inside)
    os.write(terminal, f"{answer}\n".encode())
    shown = b""
    try:
        while chunk := os.read(terminal, 4096):
            shown += chunk
    except OSError:
        pass  # how Linux says that nobody has the terminal open any more
    finally:
        os.close(terminal)
    return shown.decode(), process.wait(timeout=30)


def test_another_model_recognizes_nobody_and_the_way_back_everybody(home: Kiosk, other: Path, samples: Path) -> None:
    assert home("model", "install", other, "--yes").returncode == 0
    photos = (samples / "obama3.jpg", samples / "biden.jpg")
    assert _decisions(home, *photos) == [("unknown", None), ("unknown", None)]
    recognized = {subject_id: subject["recognized"] for subject_id, subject in _subjects(home).items()}
    assert recognized == {"obama": False, "biden": False}
    assert home("subjects", "list").stdout.count(f"NOT RECOGNIZED: 1 of {BUILT_IN_MODEL}") == 2
    shown = home("subjects", "show", "obama")
    assert "(of another model: not compared)" in shown.stdout
    assert "kiosk subjects reenroll" in shown.stderr
    status, message = _check(home, "store")
    assert status == "warn"
    assert "2 of 2 subjects cannot be recognized" in message
    assert "`kiosk subjects reenroll DIR`" in message
    home.configure(model={"bundle": BUILT_IN_BUNDLE})
    assert _decisions(home, *photos, bundle=BUILT_IN_BUNDLE) == [("identified", "obama"), ("identified", "biden")]
    assert {subject["recognized"] for subject in _subjects(home).values()} == {True}
    assert "NOT" not in home("subjects", "list").stdout
    assert _check(home, "store")[0] == "ok"


def test_a_bundle_that_is_not_used_costs_nobody(home: Kiosk, other: Path) -> None:
    home.configure(model={"bundle": BUILT_IN_BUNDLE})
    result = home("model", "install", other)
    assert (result.returncode, result.stderr) == (0, "")
    assert f"in use, now and afterwards: {BUILT_IN_MODEL}" in result.stdout
    assert f"set model.bundle: {OTHER} to use it" in result.stdout
    assert f"0 of 2 subjects have templates of {OTHER_MODEL}" in result.stdout
    assert "going back" not in result.stdout


def test_a_worse_bundle_than_the_installed_one_is_not_used(home: Kiosk, other: Path, tmp_path: Path) -> None:
    assert home("model", "install", other, "--yes").returncode == 0
    accuracy = {"protocol": "p", "pairs": 1000, "value": 0.9, "threshold": 0.5, "undetected": 0}
    worse = _bundle(tmp_path / "worse", "worse-int8", accuracy=accuracy)
    document = json.loads(home("model", "install", worse, "--json").stdout)
    assert document["installed"] is True
    assert document["in_use"]["before"] == document["in_use"]["after"]
    assert document["in_use"]["after"]["model"] == OTHER_MODEL
    assert document["subjects"]["lost"] == []


def test_a_new_build_of_the_same_name_can_be_rolled_back(home: Kiosk, other: Path, tmp_path: Path) -> None:
    assert home("model", "install", other, "--yes").returncode == 0
    newer = _bundle(tmp_path / "newer", OTHER, tail=b"\0" * 16)
    document = json.loads(home("model", "install", newer, "--json").stdout)
    assert document["in_use"]["after"]["model"] == read_bundle(newer).model_id != OTHER_MODEL
    assert "`kiosk model rollback`" in document["way_back"]
    assert read_bundle(home.folder / "models" / OTHER).model_id == read_bundle(newer).model_id
    result = home("model", "rollback")
    assert (result.returncode, result.stderr) == (0, "")
    assert f"in use now: {read_bundle(newer).model_id}" in result.stdout
    assert _in_use(home) == OTHER_MODEL


def test_a_threshold_of_ones_own_does_not_follow_the_model(home: Kiosk, other: Path) -> None:
    home.configure(match={"threshold": 0.93})
    result = home("model", "install", other, "--yes")
    assert "match.threshold is a number and stays" in result.stdout


def test_a_threshold_of_another_networks_scale_is_asked_about(home: Kiosk, tmp_path: Path) -> None:
    home.configure(match={"threshold": 0.93})
    source = json.loads((BUILT_IN / BUILT_IN_BUNDLE / "manifest.json").read_text())["source"]
    foreign = _bundle(tmp_path / "foreign", OTHER, source=source | {"sha256": "0" * 64})
    refused = home("model", "install", foreign)
    assert refused.returncode == 64
    assert "strangers may pass" in assert_one_line_error(refused.stderr)


def test_a_bundle_that_would_not_run_is_said_to(home: Kiosk, tmp_path: Path) -> None:
    unmeasured = _bundle(tmp_path / "unmeasured", OTHER, thresholds=[])
    home.configure(model={"bundle": OTHER})
    result = home("model", "install", unmeasured)
    assert result.returncode == 0
    assert "the kiosk does not run" in result.stdout
    assert "set match.threshold" in result.stdout


def test_photos_enroll_again_right_after_the_installation(
    home: Kiosk, other: Path, people: Path, samples: Path
) -> None:
    refused = home("model", "install", other, "--photos", people)
    assert refused.returncode == 64
    assert "1 subject would not be recognized any more (biden)" in assert_one_line_error(refused.stderr)
    result = home("model", "install", other, "--photos", people, "--yes", "--json")
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    assert (document["installed"], document["with_photos"]) == (True, ["obama"])
    report = document["reenrollment"]
    (again,) = report["subjects"]
    assert again["subject_id"] == "obama"
    assert [(Path(photo["path"]).name, photo["new"]) for photo in again["photos"]] == [
        ("obama.jpg", False),
        ("obama2.jpg", True),
    ]
    assert (report["missing"], report["unrecognized"], report["failures"]) == (["biden"], ["biden"], [])
    assert report["not_enrolled"] == [{"subject_id": "stranger", "photos_of": []}]
    subjects = _subjects(home)
    assert set(subjects) == {"obama", "biden"}
    assert subjects["obama"]["name"] == "Barack Obama"
    assert subjects["obama"]["models"] == {BUILT_IN_MODEL: 1, OTHER_MODEL: 2}
    # Each model sees its own templates and no others, whoever has how many of which.
    photos = (samples / "obama3.jpg", samples / "biden.jpg")
    assert _decisions(home, *photos) == [("identified", "obama"), ("unknown", None)]
    assert _decisions(home, *photos, bundle=BUILT_IN_BUNDLE) == [("identified", "obama"), ("identified", "biden")]


def test_with_photos_of_everybody_nobody_is_asked(home: Kiosk, other: Path, people: Path, samples: Path) -> None:
    (people / "biden").mkdir()
    shutil.copy(samples / "biden_portrait.jpg", people / "biden")
    result = home("model", "install", other, "--photos", people)
    assert result.returncode == 0, result.stderr
    assert "biden: enrolled again with 1 photo\n" in result.stdout
    assert "obama: enrolled again with 2 photos, 1 of them new\n" in result.stdout
    assert f"2 of 2 subjects can be recognized by {OTHER_MODEL}" in result.stdout
    assert "not added: stranger is not enrolled" in result.stderr


@pytest.fixture
def changed(home: Kiosk, other: Path) -> Kiosk:
    """The other bundle in use, and the templates still those of the built-in one."""
    shutil.copytree(other, home.folder / "models" / OTHER)
    return home


def test_reenroll_tells_who_is_missing_and_can_be_repeated(changed: Kiosk, people: Path) -> None:
    result = changed("subjects", "reenroll", people)
    assert result.returncode == 0
    assert result.stdout.splitlines() == [
        "obama: enrolled again with 2 photos, 1 of them new",
        f"1 of 2 subjects can be recognized by {OTHER_MODEL}",
    ]
    assert "still not recognized: biden (no photos of this subject there)" in result.stderr
    before = dump(changed.store)
    again = changed("subjects", "reenroll", people)
    assert "obama: has templates of this model already" in again.stdout
    assert dump(changed.store) == before


def test_reenroll_keeps_name_and_consent(kiosk: Kiosk, other: Path, samples: Path, people: Path) -> None:
    arguments = ("obama", samples / "obama.jpg", "--name", "Barack", "--consent", "F-1", "--consent-date", "2026-01-02")
    assert kiosk("enroll", *arguments).returncode == 0
    shutil.copytree(other, kiosk.folder / "models" / OTHER)
    assert kiosk("subjects", "reenroll", people).returncode == 0
    shown = json.loads(kiosk("subjects", "show", "obama", "--json").stdout)
    assert (shown["name"], shown["consent_reference"], shown["consent_at"]) == ("Barack", "F-1", "2026-01-02")
    assert shown["recognized"] is True
    assert [template["compared"] for template in shown["templates"]] == [False, True, True]


def test_reenroll_takes_no_photo_of_somebody_else(changed: Kiosk, people: Path, samples: Path) -> None:
    shutil.copy(samples / "biden_portrait.jpg", people / "obama")  # Biden was enrolled from this very file.
    (people / "biden").mkdir()
    for photo in ("biden.jpg", "obama3.jpg"):
        shutil.copy(samples / photo, people / "biden")
    result = changed("subjects", "reenroll", people, "--json")
    assert result.returncode == 65
    assert_one_line_error(result.stderr)
    report = json.loads(result.stdout)
    failures = {Path(failure["source"]).name: failure["error"] for failure in report["failures"]}
    assert set(failures) == {"biden_portrait.jpg", "biden"}
    assert "biden was enrolled from this photo" in failures["biden_portrait.jpg"]
    assert "does not look like the same person" in failures["biden"]
    assert (report["unrecognized"], report["missing"]) == (["biden"], [])
    assert [subject["subject_id"] for subject in report["subjects"]] == ["obama"]


def test_photos_accepted_once_are_accepted_again_and_new_ones_are_checked(
    kiosk: Kiosk, other: Path, samples: Path, tmp_path: Path
) -> None:
    """Twins, for once one and the same man: both were enrolled knowingly."""
    people = tmp_path / "twins"
    for subject_id, photo in {"E7": "obama3.jpg", "obama": "obama.jpg"}.items():
        (people / subject_id).mkdir(parents=True)
        shutil.copy(samples / photo, people / subject_id)
        assert kiosk("enroll", subject_id, samples / photo, "--force").returncode == 0
    shutil.copytree(other, kiosk.folder / "models" / OTHER)
    result = kiosk("subjects", "reenroll", people)
    assert result.returncode == 0, result.stderr
    assert f"2 of 2 subjects can be recognized by {OTHER_MODEL}" in result.stdout
    shutil.copy(samples / "obama2.jpg", people / "E7")
    refused = kiosk("subjects", "reenroll", people)
    assert refused.returncode == 65
    assert "already enrolled as obama" in refused.stderr
    forced = kiosk("subjects", "reenroll", people, "--force")
    assert forced.returncode == 0, forced.stderr
    assert "E7: enrolled again with 1 photo, 1 of them new" in forced.stdout


def test_a_store_that_cannot_be_read_leaves_everything_as_it_is(kiosk: Kiosk, other: Path) -> None:
    kiosk.store.write_bytes(b"no database at all, just text " * 100)
    result = kiosk("model", "install", other, "--yes")
    assert result.returncode == 73
    assert_one_line_error(result.stderr)
    assert _installed(kiosk) == []


def test_reenroll_without_a_store_creates_none(kiosk: Kiosk, people: Path) -> None:
    result = kiosk("subjects", "reenroll", people)
    assert result.returncode == 69
    assert_one_line_error(result.stderr)
    assert not kiosk.store.exists()


def test_reenroll_needs_photos_or_a_wish_to_drop(home: Kiosk) -> None:
    result = home("subjects", "reenroll")
    assert result.returncode == 64
    assert "DIR" in assert_one_line_error(result.stderr)


def _embeddings(store: Path, model_id: ModelId) -> list[bytes]:
    with Store.open(store, writable=False) as opened:
        return [template.embedding.astype("<f4").tobytes() for template in opened.templates(model_id)]


def _bytes_on_disk(kiosk: Kiosk) -> bytes:
    return b"".join(path.read_bytes() for path in kiosk.folder.glob("kiosk.db*"))


def test_drop_old_waits_for_everybody_and_then_erases(changed: Kiosk, people: Path, samples: Path) -> None:
    old = _embeddings(changed.store, BUILT_IN_MODEL)
    early = changed("subjects", "reenroll", people, "--drop-old")
    assert early.returncode == 65
    assert "biden" in early.stderr.splitlines()[-1]
    assert _embeddings(changed.store, BUILT_IN_MODEL) == old
    assert changed("subjects", "reenroll", "--drop-old").returncode == 65

    (people / "biden").mkdir()
    shutil.copy(samples / "biden_portrait.jpg", people / "biden")
    result = changed("subjects", "reenroll", people)
    assert result.returncode == 0, result.stderr
    status, message = _check(changed, "store")
    assert status == "ok"
    assert "reenroll --drop-old" in message
    # In a template's row the model follows the subject; the audit log, which has it too, is no template.
    rows = [f"{subject}{BUILT_IN_MODEL}".encode() for subject in ("obama", "biden")]
    assert all(row in _bytes_on_disk(changed) for row in rows)
    dropped = json.loads(changed("subjects", "reenroll", "--drop-old", "--json").stdout)["dropped"]
    assert dropped == {"templates": {BUILT_IN_MODEL: 2}, "complete": True}
    # The other bundle is the same network: what it made of the same photos is the same bytes, and must stay.
    assert _embeddings(changed.store, BUILT_IN_MODEL) == []
    assert not any(row in _bytes_on_disk(changed) for row in rows)
    photos = (samples / "obama3.jpg", samples / "biden.jpg")
    assert _decisions(changed, *photos) == [("identified", "obama"), ("identified", "biden")]
    assert _decisions(changed, *photos, bundle=BUILT_IN_BUNDLE) == [("unknown", None), ("unknown", None)]


def test_nothing_is_dropped_that_a_running_kiosk_recognizes_with(changed: Kiosk, people: Path, samples: Path) -> None:
    (people / "biden").mkdir()
    shutil.copy(samples / "biden_portrait.jpg", people / "biden")
    with Store.open(changed.store) as store, store.daemon_lock(BUILT_IN_MODEL):
        result = changed("subjects", "reenroll", people, "--drop-old")
        assert result.returncode == 69
        assert f"process {os.getpid()}" in assert_one_line_error(result.stderr)
        assert store.template_models() == {BUILT_IN_MODEL: 2}
    with Store.open(changed.store) as store, store.daemon_lock(OTHER_MODEL):
        assert changed("subjects", "reenroll", people, "--drop-old").returncode == 0
        assert store.template_models() == {OTHER_MODEL: 3}


@contextmanager
def _watching_obama(kiosk: Kiosk, samples: Path) -> Iterator[subprocess.Popen[str]]:
    clip = kiosk.folder / "clip.avi"
    obama = Person(cv2.imread(str(samples / "obama2.jpg")), Box(115, 181, 181, 181))  # type: ignore[arg-type]
    write_clip(clip, [Scene(1.0, (Walk(obama, x=(0.45, 0.55), face_px=(120, 130)),)), Scene(1.3)])
    kiosk.configure(camera={"source": str(clip), "loop": True}, match={"refractory_s": 1})
    process = kiosk.start("run")
    try:
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=20)


def _models_of_check_ins(kiosk: Kiosk) -> list[str]:
    with Store.open(kiosk.store, writable=False) as store:
        return [row.evidence["match"]["model"] for row in store.attendance()]


def test_a_running_kiosk_keeps_its_model_until_it_is_restarted(home: Kiosk, other: Path, samples: Path) -> None:
    with _watching_obama(home, samples) as process:
        wait_for(lambda: len(_models_of_check_ins(home)) >= 1, 30)
        result = home("model", "install", other, "--yes")
        assert result.returncode == 0
        assert f"the running kiosk (process {process.pid}) goes on with {BUILT_IN_MODEL} until" in result.stdout
        status, message = _check(home, "model")
        assert status == "warn"
        assert f"still uses {BUILT_IN_MODEL}: restart it" in message
        count = len(_models_of_check_ins(home))
        wait_for(lambda: len(_models_of_check_ins(home)) > count, 30)
        assert set(_models_of_check_ins(home)) == {BUILT_IN_MODEL}
    count = len(_models_of_check_ins(home))
    home.configure(camera={"loop": False, "pace": "fast"})
    restarted = home("run")
    assert restarted.returncode == 0
    assert "2 of 2 subjects cannot be recognized" in restarted.stderr
    assert "`kiosk subjects reenroll DIR`" in restarted.stderr
    assert len(_models_of_check_ins(home)) == count


def test_remove_a_bundle_that_people_depend_on(home: Kiosk, other: Path, people: Path, samples: Path) -> None:
    (people / "biden").mkdir()
    shutil.copy(samples / "biden_portrait.jpg", people / "biden")
    assert home("model", "install", other, "--photos", people).returncode == 0
    assert home("subjects", "reenroll", "--drop-old").returncode == 0
    refused = home("model", "remove", OTHER)
    assert refused.returncode == 64
    line = assert_one_line_error(refused.stderr)
    assert "2 subjects would not be recognized any more (biden, obama)" in line
    assert "--yes" in line
    assert f"3 templates made with {OTHER} stay" in refused.stdout
    assert f"in use afterwards: {BUILT_IN_MODEL}" in refused.stdout
    assert _installed(home) == [OTHER]
    document = json.loads(home("model", "remove", OTHER, "--yes", "--json").stdout)
    assert (document["removed"], document["templates"]) == (True, {OTHER_MODEL: 3})
    assert _installed(home) == []
    assert home("model", "install", other).returncode == 0
    assert _decisions(home, samples / "obama3.jpg") == [("identified", "obama")]


def test_remove_a_bundle_that_nobody_needs(home: Kiosk, other: Path) -> None:
    assert home("model", "install", other, "--yes").returncode == 0
    result = home("model", "remove", OTHER)
    assert (result.returncode, result.stderr) == (0, "")
    assert "2 of 2 subjects have templates" in result.stdout
    assert _installed(home) == []
    with Store.open(home.store, writable=False) as store:
        installed, removed = store.audit_rows()[-2:]
    assert (installed.action, removed.action) == ("install_model", "remove_model")
    assert installed.detail() == {"bundle": OTHER, "model": OTHER_MODEL, "replaces": False}
    assert removed.detail() == {"bundle": OTHER}


_UNLOGGABLE = {
    # The row itself cannot be written, or (as where the disk is full) only the commit fails.
    "row": ["CREATE TRIGGER no BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'no'); END"],
    "commit": [
        "CREATE TABLE wish (subject TEXT REFERENCES subjects(id) DEFERRABLE INITIALLY DEFERRED)",
        "CREATE TRIGGER no AFTER INSERT ON audit BEGIN INSERT INTO wish VALUES ('nobody'); END",
    ],
}


@pytest.mark.parametrize("statements", _UNLOGGABLE.values(), ids=_UNLOGGABLE)
def test_without_its_row_in_the_log_no_bundle_comes_or_goes(
    home: Kiosk, other: Path, tmp_path: Path, statements: list[str]
) -> None:
    assert home("model", "install", other, "--yes").returncode == 0
    again = _bundle(tmp_path / "again", OTHER, tail=b"again")
    first_time = _bundle(tmp_path / "first", "first-int8")
    before = (home.folder / "models" / OTHER / "manifest.json").read_bytes()
    with Store.open(home.store) as store, store._writing() as db:
        for statement in statements:
            db.execute(statement)
    for bundle in (again, first_time):
        result = home("model", "install", bundle, "--yes", "--json")
        assert (result.returncode, json.loads(result.stdout)["installed"]) == (73, False)
    result = home("model", "remove", OTHER, "--yes", "--json")
    assert (result.returncode, json.loads(result.stdout)["removed"]) == (73, False)
    assert_one_line_error(result.stderr)
    assert _installed(home) == [OTHER]
    assert (home.folder / "models" / OTHER / "manifest.json").read_bytes() == before


def test_removing_the_bundle_the_configuration_names(home: Kiosk, other: Path) -> None:
    shutil.copytree(other, home.folder / "models" / OTHER)
    with Store.open(home.store) as store:
        store.enroll(SubjectId("carol"), [NewTemplate(ModelId(OTHER_MODEL), np.eye(1, 128, dtype=np.float32)[0])])
    home.configure(model={"bundle": OTHER})
    result = home("model", "remove", OTHER)
    assert result.returncode == 64
    assert "carol" in assert_one_line_error(result.stderr)
    assert "in use afterwards: none, the kiosk does not run" in result.stdout


@pytest.mark.parametrize(("name", "code"), [(BUILT_IN_BUNDLE, 65), ("nowhere", 69), ("../kiosk.db", 69), ("", 69)])
def test_what_cannot_be_removed(home: Kiosk, name: str, code: int) -> None:
    result = home("model", "remove", name, "--yes")
    assert result.returncode == code
    assert_one_line_error(result.stderr)
    assert home.store.exists()


@pytest.mark.parametrize("missing", ["manifest.json", "model.tflite", "half of model.tflite"])
def test_a_half_copied_bundle_stops_auto_and_the_fix_is_named(
    home: Kiosk, other: Path, samples: Path, missing: str
) -> None:
    installed = home.folder / "models" / OTHER
    shutil.copytree(other, installed)
    if missing.startswith("half"):
        (installed / "model.tflite").write_bytes((other / "model.tflite").read_bytes()[:1_000_000])
    else:
        (installed / missing).unlink()
    listed = home("model", "list", "--json")
    assert listed.returncode == 0
    document = json.loads(listed.stdout)
    (bundle,) = (bundle for bundle in document["bundles"] if bundle["name"] == OTHER)
    assert bundle["summary"].startswith("DAMAGED: ")
    assert f"kiosk model remove {OTHER}" in document["problem"]
    status, message = _check(home, "model")
    assert status == "fail"
    assert "`kiosk model install FOLDER` replaces it" in message
    assert f"`kiosk model remove {OTHER}` takes it away" in message
    assert home("model", "remove", OTHER).returncode == 0
    assert _decisions(home, samples / "obama3.jpg") == [("identified", "obama")]


def test_a_damaged_bundle_in_words(home: Kiosk, other: Path) -> None:
    shutil.copytree(other, home.folder / "models" / OTHER)
    (home.folder / "models" / OTHER / "model.tflite").write_bytes(b"")
    assert "the kiosk does not run" in home("model", "list").stderr
    assert home("run").returncode == 69
    subjects = home("subjects", "list", "--json")
    assert subjects.returncode == 0
    assert "nobody can be recognized" in subjects.stderr
    assert {subject["recognized"] for subject in json.loads(subjects.stdout)["subjects"]} == {None}


def test_installing_over_a_half_copied_bundle_mends_it(kiosk: Kiosk, other: Path) -> None:
    (kiosk.folder / "models" / OTHER).mkdir(parents=True)
    shutil.copy(other / "manifest.json", kiosk.folder / "models" / OTHER)
    result = kiosk("model", "install", other)
    assert result.returncode == 0
    assert "in use now: none, the kiosk does not run" in result.stdout
    assert _check(kiosk, "model")[0] == "ok"
