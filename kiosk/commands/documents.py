"""Records as JSON documents, as the commands print them."""

from __future__ import annotations

import math

from kiosk.biometrics import Decision, FaceReport, Quality
from kiosk.events import pad_of
from kiosk.evidence import explain_outcome, gather_evidence


def face_document(report: FaceReport) -> dict[str, object]:
    """One face of a photo with its decision."""
    decision = report.decision
    return {
        "box": list(report.face.box.rounded()),
        "decision": decision.verdict.value,
        "reason": decision.reason.value,
        "subject_id": decision.subject_id,
        "score": rounded(decision.score),
        "margin": rounded(decision.margin),
        "margin_needed": rounded(decision.margin_needed),
        "threshold": rounded(decision.threshold),
        "explanation": explain_outcome(gather_evidence(decision)),
        "candidates": candidate_documents(decision),
        "quality": None if decision.quality is None else quality_document(decision.quality),
        "pad": pad_of(decision).payload(),
    }


def candidate_documents(decision: Decision, at_most: int | None = None) -> list[dict[str, object]]:
    """The candidates, best first."""
    return [{"subject_id": c.subject_id, "score": rounded(c.score)} for c in decision.candidates[:at_most]]


def quality_document(quality: Quality) -> dict[str, object]:
    """A face's measures; ``failure`` names the first limit it breaks."""
    return {
        "size_px": rounded(quality.size_px),
        "eye_distance_px": rounded(quality.eye_distance_px),
        "sharpness": rounded(quality.sharpness),
        "brightness": rounded(quality.brightness),
        "contrast": rounded(quality.contrast),
        "clipped": rounded(quality.clipped),
        "yaw": rounded(quality.yaw),
        "pitch": rounded(quality.pitch),
        "detector_score": rounded(quality.detector_score),
        "failure": quality.failure,
    }


def rounded(value: float | None) -> float | None:
    """Four decimals say all there is; what is not finite has no place in JSON."""
    return None if value is None or not math.isfinite(value) else round(value, 4)
