"""``kiosk calibrate``: what changes in the store and at the door, and what does not."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Kiosk
from runner import assert_one_line_error, copy_store, dump, run_in_process

from kiosk.biometrics import Candidate, Decision, ModelId, Reason, SubjectId, Verdict
from kiosk.bundle import BUILT_IN, BUILT_IN_BUNDLE, read_bundle
from kiosk.events import EventType, Moment, Origin, rejected_event
from kiosk.opencv import cv2
from kiosk.store import NewTemplate, Store

pytestmark = pytest.mark.stories

MODEL = read_bundle(BUILT_IN / BUILT_IN_BUNDLE).model_id
SITE = Origin("hq", "door-1", "UTC")
PEOPLE, PHOTOS, DIM = 20, 2, 128


def write_people(store: Path, people: int, photos: int) -> None:
    """Random faces of unit length: far less alike than those the bundle was measured on."""
    random = np.random.default_rng(1)
    with Store.open(store) as opened:
        for number in range(people):
            rows = random.normal(size=(photos, DIM)).astype(np.float32)
            rows /= np.linalg.norm(rows, axis=1, keepdims=True)
            opened.enroll(SubjectId(f"p{number:02}"), [NewTemplate(MODEL, row) for row in rows])


@pytest.fixture(scope="module")
def _people(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Kiosk:
    kiosk = Kiosk(tmp_path_factory.mktemp("people"), request.config.getoption("--runtime"))
    write_people(kiosk.store, PEOPLE, PHOTOS)
    return kiosk


@pytest.fixture
def door(kiosk: Kiosk, _people: Kiosk) -> Kiosk:
    copy_store(_people, kiosk)
    return kiosk


def run(kiosk: Kiosk, *arguments: str | Path) -> tuple[int, str, str]:
    """Exit code, stdout and stderr, without the second that a process takes; a few tests have a real one."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run_in_process(*map(str, arguments), "--config", str(kiosk.config))
    return code, out.getvalue(), err.getvalue()


def calibrate(kiosk: Kiosk, *arguments: str | Path, told: str = "") -> dict[str, Any]:
    code, out, err = run(kiosk, "calibrate", "--json", *arguments)
    assert (code, err) == (0, told)
    document: dict[str, Any] = json.loads(out)
    return document


def identify(kiosk: Kiosk, photo: Path) -> dict[str, Any]:
    face: dict[str, Any] = json.loads(run(kiosk, "identify", "--json", photo)[1])["images"][0]["faces"][0]
    return face


def test_nothing_changes_until_it_is_applied_and_then_the_doors_threshold_does(door: Kiosk, samples: Path) -> None:
    before = dump(door.store)
    proposed = calibrate(door)
    assert dump(door.store) == before
    shift = proposed["calibration"]["score_shift"]
    assert shift == proposed["calibration"]["interval"][1] < -0.1
    assert proposed["threshold"] == pytest.approx(proposed["threshold_of_bundle"] + shift, abs=2e-4)
    assert (proposed["model"], proposed["subjects"], proposed["templates"]) == (MODEL, PEOPLE, PEOPLE * PHOTOS)

    face = identify(door, samples / "obama.jpg")
    crowd = proposed["crowd_weight"] * np.mean([c["score"] for c in face["candidates"][1 : 1 + proposed["crowd_size"]]])
    assert face["threshold"] == pytest.approx(proposed["threshold_of_bundle"] + crowd, abs=2e-4)

    assert calibrate(door, "--apply")["applied"] is True
    after = dump(door.store)
    assert {name for name in after if after[name] != before[name]} == {"calibrations", "audit", "marks"}
    assert identify(door, samples / "obama.jpg")["threshold"] == pytest.approx(face["threshold"] + shift, abs=3e-4)
    # `kiosk check` has no camera here; what it says of the store is not touched by that.
    checks = {check["name"]: check["message"] for check in json.loads(run(door, "check", "--json")[1])["checks"]}
    assert f"threshold {proposed['threshold']:.3f}" in checks["store"]
    assert f"{shift:+.3f} by `kiosk calibrate`" in checks["store"]

    reset = calibrate(door, "--reset", told="forgotten: the bundle's own figures count again\n")
    assert reset["threshold_in_force"] == proposed["threshold_of_bundle"]
    assert dump(door.store)["calibrations"] == []
    calibrate(door, "--reset", told="nothing had been applied\n")


def test_strangers_count_one_by_one_and_are_not_stored(door: Kiosk, samples: Path, tmp_path: Path) -> None:
    folder = tmp_path / "strangers"
    (folder / "obama").mkdir(parents=True)
    for photo, target in (("obama", "obama/1"), ("obama2", "obama/2"), ("collins", "collins")):
        (folder / f"{target}.jpg").write_bytes((samples / f"{photo}.jpg").read_bytes())
    cv2.imwrite(str(folder / "wall.png"), np.full((200, 200, 3), 90, np.uint8))
    before = dump(door.store)
    found = calibrate(door, "--strangers", folder, told=f"left out: {folder / 'wall.png'}: no face found\n")
    calibration = found["calibration"]
    assert (calibration["stranger_photos"], calibration["searches"]) == (3, PEOPLE * PHOTOS + 3)
    assert calibration["people"] == PEOPLE + 2
    assert dump(door.store) == before
    for path in folder.rglob("*.jpg"):
        path.unlink()
    code, out, err = run(door, "calibrate", "--strangers", folder)
    assert (code, out) == (65, "")
    assert "no photo with a usable face" in err.splitlines()[-1]


def test_words_and_plot(door: Kiosk, tmp_path: Path) -> None:
    result = door("calibrate", "--plot", tmp_path / "plot.png")
    assert (result.returncode, result.stderr) == (0, "")
    assert [line.split()[0] for line in result.stdout.splitlines()] == [
        "threshold", "and", "in", "measured", "alike", "events", "nothing",
    ]  # fmt: skip
    picture = cv2.imread(str(tmp_path / "plot.png"))
    assert picture is not None
    assert picture.std() > 20
    code, _, err = run(door, "calibrate", "--apply", "--plot", tmp_path / "nowhere" / "plot.png")
    assert code == 74
    assert_one_line_error(err)
    assert dump(door.store)["calibrations"] == []


def test_past_decisions_of_this_model_are_judged_by_the_lower_threshold(door: Kiosk) -> None:
    found = calibrate(door)
    threshold, shift = found["threshold_in_force"], found["calibration"]["score_shift"]
    assert shift < 0
    with Store.open(door.store) as store:
        ids = [
            reject(store, threshold + shift / 2, threshold, MODEL),
            reject(store, threshold + shift * 2, threshold, MODEL),
            # Scores of another model say nothing about this one's threshold.
            reject(store, threshold + shift / 2, threshold, ModelId("other@000000")),
        ]
        store.record_check_in(
            Decision(Verdict.IDENTIFIED, Reason.MATCH, threshold, (Candidate(SubjectId("p01"), threshold + 0.1),)),
            event_type=EventType.CHECK_IN,
            moment=_moment(9),
            origin=SITE,
            model_id=MODEL,
            gallery_size=PEOPLE,
        )
    events = calibrate(door)["events"]
    assert events["judged"] == 3
    (change,) = events["changes"]
    assert (change["event_id"], change["subject_id"], change["decision"]) == (ids[0], "p00", "identified")
    assert change["threshold"] == pytest.approx(threshold + shift, abs=2e-4)
    assert calibrate(door, "--apply")["events"]["changes"] == [change]
    # It is in force now: nothing more would change.
    assert calibrate(door)["events"] == {"judged": 3, "changes": []}


def reject(store: Store, score: float, threshold: float, model_id: ModelId) -> str:
    decision = Decision(Verdict.UNKNOWN, Reason.UNKNOWN, threshold, (Candidate(SubjectId("p00"), score),))
    event = rejected_event(decision, moment=_moment(1), origin=SITE)
    store.record_rejection(decision, event, moment=_moment(1), origin=SITE, model_id=model_id, gallery_size=PEOPLE)
    return event.event_id


def _moment(second: int) -> Moment:
    return Moment(1_772_438_293_000 + second * 1000, True, 1000, "boot")


def test_too_few_is_told_and_nothing_applied(kiosk: Kiosk) -> None:
    write_people(kiosk.store, 9, 4)
    found = calibrate(kiosk)
    assert found["calibration"] is None
    assert "9 people with 36 photos are too few" in found["problem"]
    assert found["threshold"] == found["threshold_in_force"] == found["threshold_of_bundle"]
    code, out, err = run(kiosk, "calibrate", "--apply")
    assert (code, out) == (65, "")
    assert "too few" in assert_one_line_error(err)
    assert dump(kiosk.store)["calibrations"] == []


def test_no_store_at_all(kiosk: Kiosk) -> None:
    code, _, err = run(kiosk, "calibrate")
    assert code == 69
    assert "there is no store yet" in assert_one_line_error(err)
    assert not kiosk.store.exists()
