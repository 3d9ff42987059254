"""What a decision rests on: stored and read again, and in words."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from kiosk.biometrics import Candidate, Decision, FrameEvidence, ModelId, PadScore, Quality, Reason, SubjectId, Verdict
from kiosk.evidence import (
    ERASED,
    Evidence,
    advise,
    describe_quality,
    erase_mentions,
    explain_outcome,
    gather_evidence,
    mentioned_subjects,
    read_evidence,
)

E1042, E0007 = SubjectId("E1042"), SubjectId("E0007")
QUALITY = Quality(120.0, 90.0, 128.0, -0.25)
FRAMES = (
    FrameEvidence(0.0, QUALITY, 0.4, (Candidate(E1042, 0.8), Candidate(E0007, 0.5))),
    FrameEvidence(0.1, QUALITY, 0.6, (Candidate(E0007, 0.7), Candidate(E1042, 0.6))),
)
IDENTIFIED = Decision(
    Verdict.IDENTIFIED, Reason.MATCH, 0.62, (Candidate(E1042, 0.81), Candidate(E0007, 0.54)), 2, QUALITY, 0.05, FRAMES
)
# As the version before this one wrote it.
OLD = json.loads(
    '{"match":{"score":0.9615,"threshold":0.937,"margin":0.1278,"frames":3,"gallery_size":2,'
    '"model":"dlib-resnet29-int8@56410e"},"candidates":[{"subject_id":"obama","score":0.9615},'
    '{"subject_id":"biden","score":0.8337}],"frame_scores":[0.9483,0.9631,0.9623],'
    '"quality":{"size_px":81.11255645751953,"sharpness":71.89002990722656,"brightness":74.06473214285714,'
    '"yaw":-0.21946348949707986,"failure":null},"pad":{"checked":false,"passed":null,"score":null}}'
)


def _evidence(reason: Reason, *candidates: tuple[str, float], quality: Quality | None = None) -> Evidence:
    verdict = {Reason.MATCH: Verdict.IDENTIFIED, Reason.UNKNOWN: Verdict.UNKNOWN}.get(reason, Verdict.REJECTED)
    found = tuple(Candidate(SubjectId(subject_id), score) for subject_id, score in candidates)
    return gather_evidence(Decision(verdict, reason, 0.62, found, 3, quality, 0.05))


def test_what_is_stored_is_read_again() -> None:
    gathered = gather_evidence(
        IDENTIFIED, gallery_size=48, model_id=ModelId("m@1"), threshold_source="threshold 0.620 (match.threshold)"
    )
    stored = json.loads(json.dumps(gathered.document(), allow_nan=False))
    read = read_evidence(stored)
    assert read == replace(gathered, margin=pytest.approx(0.27))
    assert read.document() == stored
    assert [frame.offset_s for frame in read.frame_evidence] == [0.0, 0.1]
    assert read.frame_evidence[1].candidates[0] == Candidate(E0007, 0.7)


def test_how_live_each_frame_was_is_stored_where_it_was_looked_at() -> None:
    checked = tuple(replace(frame, pad=PadScore(0.87654, 0.4)) for frame in FRAMES)
    document = gather_evidence(replace(IDENTIFIED, frame_evidence=checked)).document()
    assert [frame["live_score"] for frame in document["frame_evidence"]] == [0.877, 0.877]
    assert [frame.live_score for frame in read_evidence(document).frame_evidence] == [0.877, 0.877]
    unchecked = gather_evidence(IDENTIFIED).document()
    assert [set(frame) for frame in unchecked["frame_evidence"]] == [
        {"offset_s", "weight", "candidates", "quality"}
    ] * 2
    assert [frame.live_score for frame in read_evidence(unchecked).frame_evidence] == [None, None]


def test_numpys_numbers_are_stored_as_numbers() -> None:
    quality = Quality(np.float32(120), np.float64(90.12345), 128.0)  # type: ignore[arg-type]
    document = gather_evidence(replace(IDENTIFIED, quality=quality)).document()
    assert json.loads(json.dumps(document))["quality"]["sharpness"] == 90.123


def test_evidence_of_the_older_version_is_read() -> None:
    evidence = read_evidence(OLD)
    assert (evidence.verdict, evidence.reason) == (Verdict.IDENTIFIED, "match")
    assert (evidence.margin_needed, evidence.threshold_source) == (None, None)
    assert [frame.candidates for frame in evidence.frame_evidence] == [
        (Candidate(SubjectId("obama"), score),) for score in (0.9483, 0.9631, 0.9623)
    ]
    assert {frame.offset_s for frame in evidence.frame_evidence} == {None}
    assert explain_outcome(evidence) == (
        "accepted: obama scored 0.962, 0.025 above the threshold 0.937, and led the next subject biden by 0.128"
    )


def test_mentions_are_found_and_erased_everywhere() -> None:
    document = gather_evidence(IDENTIFIED).document()
    assert mentioned_subjects(document) == {"E1042", "E0007"}
    erase_mentions(document, {"E0007"})
    assert mentioned_subjects(document) == {"E1042"}
    assert "E0007" not in json.dumps(document)
    read = read_evidence(document)
    assert read.candidates[1] == Candidate(ERASED, 0.54)
    assert read.document() == document
    assert "next subject (erased) by 0.270" in explain_outcome(read)


@pytest.mark.parametrize(
    ("evidence", "words"),
    [
        (
            _evidence(Reason.MATCH, ("E1042", 0.81), ("E0007", 0.54)),
            (
                "accepted: E1042 scored 0.810, 0.190 above the threshold 0.620, and led the next subject E0007 by "
                "0.270 (0.050 needed)"
            ),
        ),
        (
            _evidence(Reason.MATCH, ("E1042", 0.62)),
            "accepted: E1042 scored 0.620, less than 0.001 above the threshold 0.620; nobody else is enrolled",
        ),
        (
            _evidence(Reason.UNKNOWN, ("E0007", 0.41), ("E1042", 0.4)),
            "not accepted: the most alike subject, E0007, scored 0.410, 0.210 below the threshold 0.620",
        ),
        (
            _evidence(Reason.AMBIGUOUS, ("E1042", 0.81), ("E0007", 0.798)),
            (
                "not accepted: E1042 scored 0.810, 0.190 above the threshold 0.620, but led the next subject E0007 by "
                "only 0.012 (0.050 needed)"
            ),
        ),
        (_evidence(Reason.EMPTY_GALLERY), "not accepted: nobody is enrolled to compare with"),
        (
            _evidence(Reason.TOO_SMALL, quality=Quality(41.6, 90, 128)),
            "not accepted: the face was too small (size 42 px)",
        ),
        (
            _evidence(Reason.TOO_SMALL, quality=Quality(41.6, 90, 128, eye_distance_px=9.4)),
            "not accepted: the face was too small (eye distance 9 px)",
        ),
        (
            _evidence(Reason.TURNED, quality=Quality(120, 90, 128, -0.61)),
            "not accepted: the face was turned away (yaw -0.61)",
        ),
        (_evidence(Reason.BLURRED), "not accepted: the face was too blurred"),
        (replace(_evidence(Reason.UNKNOWN), reason="worn_backwards"), "not accepted: the face was worn backwards"),
    ],
)
def test_outcomes_in_words(evidence: Evidence, words: str) -> None:
    assert explain_outcome(evidence) == words
    # OpenCV's fonts draw these.
    assert words.isascii()


@pytest.mark.parametrize("reason", sorted(set(Reason) - {Reason.MATCH, Reason.NO_FACE}))
def test_every_reason_comes_with_something_to_do(reason: Reason) -> None:
    advice = advise(_evidence(reason, ("E1042", 0.6), ("E0007", 0.6)))
    assert advice is not None
    assert advice.isascii()


def test_quality_in_words_with_units() -> None:
    quality = {
        "size_px": 41.6,
        "sharpness": 90.4,
        "yaw": -0.004,
        "eye_distance_px": 33.0,
        "sunny": None,
        "failure": "x",
    }
    assert describe_quality(quality) == ["size 42 px", "sharpness 90", "yaw 0.00", "eye distance 33 px"]
