"""`kiosk calibrate`: what it measures, what it changes, what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Kiosk

from kiosk.biometrics import Candidate, Decision, ModelId, Reason, SubjectId, Verdict
from kiosk.bundle import BUILT_IN, BUILT_IN_BUNDLE, read_bundle
from kiosk.calibration import calibrate, find_alike, own_scores, search_without_own
from kiosk.errors import InputError
from kiosk.events import EventType, Moment, Origin, rejected_event
from kiosk.gallery import Gallery
from kiosk.store import NewTemplate, Store

MODEL = read_bundle(BUILT_IN / BUILT_IN_BUNDLE).model_id
SEARCH = read_bundle(BUILT_IN / BUILT_IN_BUNDLE).search_scores()
SITE = Origin("hq", "door-1", "UTC")
NOW = Moment(1_700_000_000_000, synchronized=True, boottime_ms=1000, boot_id="boot")


def crowd(people: int, photos: int, *, alike: float, seed: int = 5) -> dict[str, list[np.ndarray]]:
    """People around a common mean, as dlib's network places faces; ``alike``: share of the common direction."""
    random = np.random.default_rng(seed)
    common = np.zeros(128)
    common[0] = 1.0

    def unit(vector: np.ndarray) -> np.ndarray:
        return vector / np.linalg.norm(vector)

    found = {}
    for number in range(people):
        own = unit(alike * common + np.sqrt(1 - alike**2) * unit(random.normal(size=128)))
        rows = [unit(own + 0.15 * unit(random.normal(size=128))) for _ in range(photos)]
        found[f"P{number:02d}"] = [row.astype(np.float32) for row in rows]
    return found


def fill(kiosk: Kiosk, people: dict[str, list[np.ndarray]]) -> Path:
    with Store.open(kiosk.store) as store:
        for name, rows in people.items():
            store.enroll(SubjectId(name), [NewTemplate(MODEL, row) for row in rows], name=name)
    return kiosk.store


def report(kiosk: Kiosk, *arguments: str) -> dict[str, Any]:
    run = kiosk("calibrate", "--json", *arguments)
    assert run.returncode == 0, run.stderr
    document: dict[str, Any] = json.loads(run.stdout)
    return document


@pytest.mark.stories
def test_people_who_are_more_alike_raise_the_threshold_once_applied(kiosk: Kiosk, tmp_path: Path) -> None:
    fill(kiosk, crowd(15, 3, alike=0.985))
    first = report(kiosk, "--plot", str(tmp_path / "plot.png"))
    calibration = first["calibration"]
    assert (calibration["people"], calibration["searches"], first["applied"]) == (15, 45, False)
    assert calibration["score_shift"] == calibration["measured_shift"] > 0
    assert calibration["interval"][0] <= calibration["measured_shift"] <= calibration["interval"][1]
    assert first["threshold"] == pytest.approx(first["threshold_in_force"] + calibration["score_shift"], abs=2e-4)
    assert (tmp_path / "plot.png").stat().st_size > 10_000
    # Nothing has changed yet.
    assert report(kiosk)["threshold_in_force"] == first["threshold_in_force"]
    assert report(kiosk, "--apply")["applied"]
    again = report(kiosk)
    assert again["threshold_in_force"] == first["threshold"]
    assert "by `kiosk calibrate`" in kiosk("check").stdout
    assert kiosk("calibrate", "--reset").returncode == 0
    assert report(kiosk)["threshold_in_force"] == first["threshold_in_force"]


def test_the_words_say_what_it_means(kiosk: Kiosk, samples: Path) -> None:
    people = crowd(12, 3, alike=0.9)
    people["TWIN"] = people["P00"]
    fill(kiosk, people)
    run = kiosk("calibrate", "--strangers", str(samples), "--fpir", "0.01")
    assert run.returncode == 0
    assert "for FPIR 0.01 with 13 subjects, 39 templates" in run.stdout
    assert "45 searches by 19 people" in run.stdout
    assert "P00 and TWIN score 1.000: too alike to tell apart" in run.stdout
    assert "nothing changed; --apply makes the kiosk use it" in run.stdout


def test_past_decisions_are_judged_again(kiosk: Kiosk) -> None:
    path = fill(kiosk, crowd(15, 3, alike=0.985))
    threshold = report(kiosk)["threshold_in_force"]
    shift = report(kiosk)["calibration"]["score_shift"]
    close = (Candidate(SubjectId("P01"), threshold + shift / 2), Candidate(SubjectId("P02"), 0.1))
    far = (Candidate(SubjectId("P03"), threshold + 2 * shift), Candidate(SubjectId("P02"), 0.1))
    with Store.open(path) as store:
        for candidates in (close, far):
            store.record_check_in(
                Decision(Verdict.IDENTIFIED, Reason.MATCH, threshold, candidates),
                event_type=EventType.CHECK_IN, moment=NOW, origin=SITE, model_id=MODEL, gallery_size=15,
            )  # fmt: skip
        unknown = Decision(Verdict.UNKNOWN, Reason.UNKNOWN, threshold, (Candidate(SubjectId("P04"), threshold - 0.1),))
        event = rejected_event(unknown, moment=NOW, origin=SITE)
        store.record_rejection(unknown, event, moment=NOW, origin=SITE, model_id=MODEL, gallery_size=15)
    events = report(kiosk)["events"]
    assert events["judged"] == 3
    assert [(change["subject_id"], change["decision"]) for change in events["changes"]] == [("P01", "unknown")]
    assert report(kiosk, "--events", "0")["events"] == {"judged": 0, "changes": []}


@pytest.mark.parametrize(
    ("arguments", "environment", "code", "words"),
    [
        (["--apply", "--reset"], {}, 64, "exclude each other"),
        ([], {"KIOSK_MATCH__THRESHOLD": "0.6"}, 78, "set it to auto"),
        (["--strangers", "nowhere"], {}, 65, "no such folder"),
        (["--apply"], {}, 65, "too few to calibrate with"),
        (["--fpir", "2"], {}, 64, "--fpir"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(
    kiosk: Kiosk, arguments: list[str], environment: dict[str, str], code: int, words: str
) -> None:
    fill(kiosk, crowd(3, 2, alike=0.9))
    run = kiosk("calibrate", *arguments, env=environment)
    assert (run.returncode, words in run.stderr) == (code, True), run.stderr


def test_nobody_enrolled(kiosk: Kiosk) -> None:
    fill(kiosk, {})
    run = kiosk("calibrate")
    assert (run.returncode, "nobody is enrolled" in run.stderr) == (65, True)


def gallery(people: dict[str, list[np.ndarray]]) -> tuple[list[Any], Gallery]:
    from kiosk.biometrics import Template

    templates = [Template(SubjectId(name), MODEL, row) for name, rows in people.items() for row in rows]
    return templates, Gallery(MODEL, templates)


def test_a_mistake_downwards_is_not_made(tmp_path: Path) -> None:  # noqa: ARG001
    templates, known = gallery(crowd(20, 3, alike=0.3))
    searches = search_without_own(templates, known, SEARCH)
    found = calibrate(searches, known, SEARCH, created_at="2026-11-24T00:00:00+00:00")
    assert found.measured_shift < 0
    assert found.measured_shift <= found.score_shift <= 0
    assert found.score_shift == min(0.0, found.interval[1])


def test_own_photos_score_above_other_peoples() -> None:
    templates, known = gallery(crowd(12, 3, alike=0.9))
    own, others = own_scores(templates, known, SEARCH), search_without_own(templates, known, SEARCH).scores
    assert len(own) == len(others) == 36
    assert own.min() > others.max()


def test_too_few_people_say_nothing() -> None:
    templates, known = gallery(crowd(5, 8, alike=0.9))
    with pytest.raises(InputError, match="5 people with 40 photos are too few"):
        calibrate(search_without_own(templates, known, SEARCH), known, SEARCH, created_at="")
    assert search_without_own([], Gallery(ModelId("m"), []), SEARCH).scores.size == 0
    assert find_alike(Gallery(ModelId("m"), []), SEARCH, 0.5) == []
