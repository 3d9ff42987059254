"""Charts of decisions: written, and showing what they should."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_evidence import IDENTIFIED, OLD

from kiosk.biometrics import Candidate, Decision, FrameEvidence, Image, Quality, Reason, SubjectId, Verdict
from kiosk.charts import draw_decision
from kiosk.errors import OutputError
from kiosk.evidence import Evidence, gather_evidence, read_evidence
from kiosk.opencv import cv2

# BGR, of the first and second subject's lines.
_FIRST, _SECOND = (0xB2, 0x72, 0x00), (0x00, 0x5E, 0xD5)


def _draw(path: Path, evidence: Evidence) -> Image:
    draw_decision(path, evidence, title="check_in of E1042 (seq 1)", explanation="accepted: because " * 20)
    picture = cv2.imread(str(path))
    assert picture is not None
    return picture  # type: ignore[return-value]


def _ink(picture: Image, colour: tuple[int, int, int]) -> int:
    return int((np.abs(picture.astype(int) - colour).max(axis=2) < 8).sum())


def test_a_decision_shows_both_subjects_over_the_frames(tmp_path: Path) -> None:
    picture = _draw(tmp_path / "a.png", gather_evidence(IDENTIFIED))
    assert picture.shape == (780, 960, 3)
    alone = _draw(tmp_path / "b.png", gather_evidence(replace(IDENTIFIED, frame_evidence=())))
    # Beyond the fused scores' dotted lines and the legend: the frames' own points.
    for colour in (_FIRST, _SECOND):
        assert _ink(picture, colour) > _ink(alone, colour) + 200
    assert _ink(picture, (217, 217, 217)) > 5000  # weights as bars


def test_evidence_of_the_older_version_is_drawn(tmp_path: Path) -> None:
    picture = _draw(tmp_path / "old.png", read_evidence(OLD))
    assert _ink(picture, _FIRST) > 300


@pytest.mark.parametrize(
    "evidence",
    [
        gather_evidence(Decision(Verdict.REJECTED, Reason.BLURRED, 0.6, quality=Quality(80, 3, 120), frames=0)),
        gather_evidence(Decision(Verdict.UNKNOWN, Reason.EMPTY_GALLERY, 0.6, frames=3)),
        # One frame, an id like those that matplotlib hides from a legend, measures that are zero or missing.
        gather_evidence(
            Decision(
                Verdict.UNKNOWN,
                Reason.UNKNOWN,
                0.6,
                (Candidate(SubjectId("_x"), 0.3),),
                frame_evidence=(FrameEvidence(0.0, Quality(80, 0.0, 120), 1.0, (Candidate(SubjectId("y"), 0.4),)),),
            )
        ),
    ],
    ids=["blurred", "empty", "one frame"],
)
def test_any_decision_can_be_drawn(tmp_path: Path, evidence: Evidence) -> None:
    assert _draw(tmp_path / "any.png", evidence).std() > 10


def test_a_chart_is_written_in_the_format_of_its_name(tmp_path: Path) -> None:
    _draw(tmp_path / "a.jpg", gather_evidence(IDENTIFIED))
    assert (tmp_path / "a.jpg").read_bytes().startswith(b"\xff\xd8")
    assert [path.name for path in tmp_path.iterdir()] == ["a.jpg"]


def test_a_chart_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "taken.png").mkdir()
    with pytest.raises(OutputError, match=r"taken\.png: cannot be written"):
        _draw(tmp_path / "taken.png", gather_evidence(IDENTIFIED))
    assert [path.name for path in tmp_path.iterdir()] == ["taken.png"]
