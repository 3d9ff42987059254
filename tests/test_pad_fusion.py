"""Presentation attack detection over the frames of a track: scripted faces and live scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_recognition import ALICE, BOB, GOOD, HERE, MODEL, STRANGER, Scene, like_alice

from kiosk.biometrics import (
    Embedding,
    Face,
    FaceReport,
    Frame,
    Image,
    PadScore,
    Quality,
    Reason,
    SubjectId,
    Template,
    Verdict,
)
from kiosk.config import Config
from kiosk.decision import DecisionRule
from kiosk.errors import ModelError
from kiosk.events import Moment, Origin, Rejection, pad_of, rejected_event
from kiosk.evidence import advise, explain_outcome, gather_evidence
from kiosk.gallery import Gallery
from kiosk.pad import find_pad_bundle
from kiosk.pipeline import describe_pad
from kiosk.recognition import Recognizer

FLAT = 0.01
"""What a print scores."""


class Scripted:
    """Plays back live scores, one a look; the last one stays."""

    model_id = "scripted@000000"
    threshold = 0.4

    def __init__(self, scores: Sequence[float]) -> None:
        self._scores = list(scores)

    def score(self, image: Image, face: Face) -> float:  # noqa: ARG002
        return self._scores.pop(0) if len(self._scores) > 1 else self._scores[0]


class GuardedDoor:
    """Alice and Bob are enrolled; a frame every tenth of a second."""

    def __init__(self, *scores: float, decisive: float = 1e9, live_score: float | None = None) -> None:
        self.scene = Scene()
        self.recognizer = Recognizer(
            detector=self.scene,
            embedder=self.scene,
            gate=self.scene,
            gallery=Gallery(
                MODEL, [Template(SubjectId("alice"), MODEL, ALICE), Template(SubjectId("bob"), MODEL, BOB)]
            ),
            rule=DecisionRule(0.6, 0.05, decisive=decisive),
            same_face_score=0.5,
            frames=3,
            window_s=2.0,
            pad=Scripted(scores),
            live_score=live_score,
        )
        self.now_s = 0.0

    def see(self, times: int, who: Embedding = ALICE, quality: Quality = GOOD) -> list[FaceReport]:
        """The final reports of so many frames."""
        finals = []
        for _ in range(times):
            self.now_s += 0.1
            self.scene.rows = [(HERE, who, quality)]
            reports = self.recognizer.process(Frame(np.zeros((1, 1, 3), np.uint8), self.now_s, round(self.now_s * 10)))
            finals += [report for report in reports if report.final]
        return finals


def test_a_live_face_is_identified_with_its_score() -> None:
    (report,) = GuardedDoor(0.9, 0.5, 0.7).see(3)
    assert (report.decision.subject_id, report.decision.reason) == ("alice", Reason.MATCH)
    assert report.decision.pad is not None
    assert (report.decision.pad.score, report.decision.pad.passed) == (0.7, True)
    assert pad_of(report.decision).payload() == {"checked": True, "passed": True, "score": 0.7}


def test_a_print_is_rejected_once_and_never_identified() -> None:
    (report,) = GuardedDoor(FLAT).see(100)
    decision = report.decision
    assert (decision.verdict, decision.reason, decision.subject_id) == (Verdict.REJECTED, Reason.SPOOF, None)
    assert pad_of(decision).payload() == {"checked": True, "passed": False, "score": FLAT}


@pytest.mark.parametrize("lucky", [0, 1, 2])
def test_one_lucky_frame_opens_no_door(lucky: int) -> None:
    scores = [FLAT] * 3
    scores[lucky] = 1.0
    (report,) = GuardedDoor(*scores, FLAT).see(40)
    assert report.decision.reason is Reason.SPOOF


@pytest.mark.parametrize("lucky", [0, 1])
def test_a_decisive_match_rests_on_two_live_frames(lucky: int) -> None:
    """Two frames are enough for a very good score; of two, one lucky one is not."""
    scores = [FLAT] * 2
    scores[lucky] = 1.0
    assert GuardedDoor(*scores, decisive=0.8).see(2) == []
    (report,) = GuardedDoor(1.0, 1.0, decisive=0.8).see(2)
    assert (report.decision.subject_id, report.decision.frames) == ("alice", 2)


def test_a_person_whose_first_frames_fail_gets_in_with_the_next() -> None:
    door = GuardedDoor(FLAT, FLAT, 0.9)
    assert door.see(4) == []
    (report,) = door.see(1)
    # By the live frames alone.
    assert (report.decision.subject_id, report.decision.frames) == ("alice", 3)
    assert [frame.pad for frame in report.decision.frame_evidence] == [PadScore(0.9, 0.4)] * 3


def test_a_spoof_is_told_before_the_window_has_passed() -> None:
    door = GuardedDoor(FLAT)
    assert door.see(2) == []
    (report,) = door.see(1)
    assert (report.decision.reason, report.decision.frames) == (Reason.SPOOF, 3)
    assert door.now_s < 2.0


@pytest.mark.parametrize("poor", [3, 5, 9])
def test_within_the_window_as_many_good_frames_and_one_outweigh_poor_ones(poor: int) -> None:
    door = GuardedDoor(*[FLAT] * poor, 0.9)
    (spoof,) = door.see(2 * poor)
    assert spoof.decision.reason is Reason.SPOOF
    (report,) = door.see(1)
    assert (report.decision.subject_id, report.decision.frames) == ("alice", poor + 1)


def test_the_longest_wait_for_a_person_who_takes_a_prints_place() -> None:
    """docs/pad.md states it: thirty samples are kept, sixteen must be live, and looks are half a second apart."""
    door = GuardedDoor(*[FLAT] * 100, 0.9)
    door.see(100)
    assert door.scene.embedded < 100, "the print is looked at rarely by now"
    door.recognizer.pad = Scripted([0.9])
    began_s = door.now_s
    while not (finals := door.see(1)):
        assert door.now_s - began_s < 10
    assert finals[0].decision.subject_id == "alice"
    assert door.now_s - began_s == pytest.approx(8.5, abs=0.5)


def test_a_print_identifies_nobody_behind_a_live_face() -> None:
    """Whoever shows his own face and then a print of a person alike has one track; what is live is he."""
    mallory = like_alice(0.59)
    for live, prints in ((15, 14), (6, 5)):
        door = GuardedDoor(*[0.9] * live, *[FLAT] * prints, FLAT)
        told = door.see(live, who=mallory) + door.see(prints)
        assert len(door.recognizer._tracker._tracks) == 1
        assert [report.decision.subject_id for report in told if report.decision.subject_id] == []


def test_a_print_between_live_frames_identifies_nobody() -> None:
    mallory = like_alice(0.59)
    door = GuardedDoor(*[0.9, FLAT, 0.9] * 7)
    told = []
    for _ in range(7):
        told += door.see(1, who=mallory) + door.see(1) + door.see(1, who=mallory)
    assert {report.decision.reason for report in told} == {Reason.UNKNOWN}


def test_few_near_prints_do_not_hide_behind_many_far_live_faces() -> None:
    """A face counts by its size: what is live must be most of that, too."""
    far, near = replace(GOOD, size_px=60), replace(GOOD, size_px=160)
    door = GuardedDoor(*[0.9] * 15, FLAT, FLAT, FLAT, FLAT, 0.9)
    told = door.see(15, who=like_alice(0.59), quality=far) + door.see(5, quality=near)
    assert {report.decision.reason for report in told} == {Reason.SPOOF}


def test_a_strangers_print_is_a_spoof_too() -> None:
    (report,) = GuardedDoor(FLAT).see(40, who=STRANGER)
    assert report.decision.reason is Reason.SPOOF


def test_the_configured_score_replaces_the_models() -> None:
    assert GuardedDoor(0.5, live_score=0.6).see(40)[0].decision.reason is Reason.SPOOF
    assert GuardedDoor(0.5).see(3)[0].decision.subject_id == "alice"
    assert GuardedDoor(FLAT, live_score=0.0).see(3)[0].decision.subject_id == "alice"


def test_a_photo_is_judged_on_its_own() -> None:
    door = GuardedDoor(FLAT, 0.9)
    door.scene.rows = [(HERE, ALICE, GOOD)]
    spoof, live = (door.recognizer.analyse(np.zeros((1, 1, 3), np.uint8))[0].decision for _ in range(2))
    assert (spoof.reason, spoof.candidates[0].subject_id) == (Reason.SPOOF, "alice")
    assert (live.reason, live.subject_id) == (Reason.MATCH, "alice")


def test_what_is_told_of_a_spoof() -> None:
    (report,) = GuardedDoor(FLAT).see(40)
    event = rejected_event(report.decision, moment=Moment(0, True, 0, ""), origin=Origin("hq", "door-1", "UTC"))
    assert (event.event_type, event.reason) == (Rejection.SPOOF, Reason.SPOOF)
    assert "alice" not in str(event.payload())
    evidence = gather_evidence(report.decision)
    assert explain_outcome(evidence) == (
        "not accepted: this looks like a picture of a face, not like a person (live score 0.010 of 1)"
    )
    assert "pad.threshold" in str(advise(evidence))


def test_what_stands_in_a_bundles_place_is_told(tmp_path: Path) -> None:
    (tmp_path / "pad-int8").write_text("not a folder", encoding="utf-8")
    with pytest.raises(ModelError, match=r"pad-int8.pad.json: cannot be read"):
        find_pad_bundle(tmp_path)


@pytest.mark.parametrize(
    ("settings", "guarded", "told"),
    [
        ({}, True, "scripted@000000, a face is live from 0.4"),
        ({"threshold": 0.0}, False, "pad.threshold is 0"),
        ({"enabled": False}, False, "off"),
    ],
)
def test_who_guards_the_door_in_words(settings: dict[str, object], told: str, *, guarded: bool) -> None:
    config = Config.model_validate({"pad": settings})
    assert describe_pad(config, Scripted([0.9]))[0] is guarded
    assert told in describe_pad(config, Scripted([0.9]))[1]


@pytest.mark.parametrize("configured", [False, True], ids=["bundle", "configuration"])
@pytest.mark.parametrize(
    ("threshold", "sane", "told"),
    [
        (0.0001, False, "a photo may pass for one"),
        (0.049, False, "a photo may pass for one"),
        (0.05, True, "live from 0.05"),
        (0.95, True, "live from 0.95"),
        (0.96, False, "many people are refused"),
    ],
)
def test_a_threshold_that_guards_nothing_is_told(threshold: float, told: str, *, sane: bool, configured: bool) -> None:
    guard = Scripted([0.9])
    guard.threshold = 0.4 if configured else threshold
    settings = {"threshold": threshold} if configured else {}
    good, message = describe_pad(Config.model_validate({"pad": settings}), guard)
    assert good is sane
    assert told in message
    assert sane or "sane is 0.05 to 0.95" in message


def test_a_door_without_a_guard_says_so() -> None:
    guarded, told = describe_pad(Config(), None)
    assert (guarded, "kiosk-convert build pad" in told) == (False, True)
