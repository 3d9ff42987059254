"""What a decision rests on: as a record, as the JSON document the store keeps, and in words."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from kiosk.biometrics import Candidate, Decision, ModelId, Quality, Reason, SubjectId, Verdict
from kiosk.events import Method, Pad, VoidedEvent, pad_of, rounded_score

ERASED = SubjectId("(erased)")
"""Stands for a subject that has been erased since; no subject id can have parentheses. In JSON it is null."""

MANUAL = "manual"
"""Stands beside the ways of :class:`kiosk.events.Method` where no kiosk saw anybody."""

QualityFigures = Mapping[str, Any]
"""The fields of :class:`kiosk.biometrics.Quality`, of whatever version measured them."""

_FIGURE_DIGITS = 3

_FLAWS: dict[str, tuple[str, tuple[str, ...]]] = {
    # Older versions measured the box only.
    Reason.TOO_SMALL: ("too small", ("eye_distance_px", "size_px")),
    Reason.BLURRED: ("too blurred", ("sharpness",)),
    Reason.TOO_DARK: ("too dark", ("brightness",)),
    Reason.TOO_BRIGHT: ("too bright", ("brightness",)),
    Reason.LOW_CONTRAST: ("too pale", ("contrast",)),
    Reason.TURNED: ("turned away", ("yaw",)),
    Reason.UNCLEAR: ("hard to make out", ("detector_score",)),
}
"""What is wrong with a face, in words, and the figures that say so: the first that was measured counts."""

_ADVICE: dict[str, str] = {
    Reason.UNKNOWN: "nothing for a stranger; for somebody enrolled add photos taken at this door "
    "(kiosk enroll ID PHOTO...)",
    Reason.AMBIGUOUS: "enroll more photos of both; if both are one person, remove one (kiosk subjects remove ID)",
    Reason.EMPTY_GALLERY: "enroll somebody (kiosk enroll ID PHOTO...); kiosk check tells of templates of another model",
    Reason.SPOOF: "nothing for an attack; a person who is taken for one should stand in even light; the limit "
    "is pad.threshold",
    Reason.TOO_SMALL: "come closer to the camera; the limit is face.min_eye_distance_px",
    Reason.BLURRED: "stand still for a moment, clean or focus the lens, add light; the limit is face.min_sharpness",
    Reason.TOO_DARK: "add light on the face",
    Reason.TOO_BRIGHT: "keep sun and lamps off the face and out of the picture",
    Reason.LOW_CONTRAST: "clean the lens; have no bright light behind the head",
    Reason.TURNED: "look towards the camera; mount it at the height of faces",
    Reason.UNCLEAR: "uncover the face and hold the head upright, in even light",
    Reason.CODE_WRONG: "enter number and PIN again (104-482913); kiosk subjects code ID makes a new one",
    Reason.CODE_LOCKED: "wait 15 minutes, or come by face or badge; kiosk subjects code ID makes a new one at once",
    Reason.CODE_PAUSED: "wait a minute; faces are recognized meanwhile",
}

_CODE_REFUSALS: dict[str, str] = {
    Reason.CODE_WRONG: "this {kind} is nobody's, or does not go with the number",
    Reason.CODE_LOCKED: "too many wrong PINs were entered for this number",
    Reason.CODE_PAUSED: "too many wrong codes were entered",
}


@dataclass(frozen=True, slots=True)
class FrameFigures:
    """One fused frame. What an older version did not record is None; see :class:`kiosk.biometrics.FrameEvidence`."""

    candidates: tuple[Candidate, ...]
    offset_s: float | None = None
    weight: float | None = None
    quality: QualityFigures | None = None
    live_score: float | None = None
    """Also None where nothing was checked."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """A decision and all it rests on.

    ``reason`` is a :class:`Reason` or the text of one that another version knows. ``quality`` is the last frame's.
    ``frames``: how many were fused; ``frame_evidence`` has the newest of them. None: not recorded, or there is none.
    """

    verdict: Verdict
    reason: str
    threshold: float
    candidates: tuple[Candidate, ...]
    frames: int
    frame_evidence: tuple[FrameFigures, ...] = ()
    quality: QualityFigures | None = None
    margin: float | None = None
    margin_needed: float | None = None
    threshold_source: str | None = None
    gallery_size: int | None = None
    model: str | None = None
    pad: Mapping[str, Any] | None = None

    @property
    def score(self) -> float | None:
        return self.candidates[0].score if self.candidates else None

    def document(self) -> dict[str, Any]:
        """As the store keeps it and ``kiosk why --json`` prints it."""
        return {
            "match": {
                "score": _rounded_or_none(self.score),
                "threshold": rounded_score(self.threshold),
                "margin": _figure(self.margin, 4),
                "frames": self.frames,
                "gallery_size": self.gallery_size,
                "model": self.model,
            },
            "decision": self.verdict.value,
            "reason": str(self.reason),
            "margin_needed": _figure(self.margin_needed, 4),
            "threshold_source": self.threshold_source,
            "candidates": _candidate_documents(self.candidates),
            "frame_evidence": [_frame_document(frame) for frame in self.frame_evidence],
            "quality": _figures(self.quality),
            "pad": self.pad,
        }


@dataclass(frozen=True, slots=True)
class CodeEvidence:
    """What a decision about a code rests on: nothing that could be entered again, and nothing of a face.

    ``kind`` and ``reason``: of a :class:`kiosk.codes.Kind` and a :class:`Reason`, or the text of another version's.
    """

    kind: str
    reason: str

    def document(self) -> dict[str, Any]:
        """As the store keeps it."""
        verdict = Verdict.IDENTIFIED if self.reason == Reason.MATCH else Verdict.REJECTED
        return {
            "method": Method.CODE.value,
            "code": str(self.kind),
            "decision": verdict.value,
            "reason": str(self.reason),
            "match": None,
            "candidates": [],
        }


def read_code_evidence(document: Mapping[str, Any]) -> CodeEvidence | None:
    """None where the document is about a face."""
    if document.get("method", Method.FACE) != Method.CODE:
        return None
    return CodeEvidence(document["code"], document["reason"])


@dataclass(frozen=True, slots=True)
class ManualEvidence:
    """What an event entered by hand rests on. ``reason``: of whoever entered it; None: erased with the subject.

    ``voids``: of the event that counts no more; None where something was added.
    """

    reason: str | None
    voids: VoidedEvent | None = None

    def document(self) -> dict[str, Any]:
        """As the store keeps it."""
        voids = {} if self.voids is None else {"voids": self.voids.payload()}
        return {"method": MANUAL, "reason": self.reason, **voids, "match": None, "candidates": []}


def read_manual_evidence(document: Mapping[str, Any]) -> ManualEvidence | None:
    """None where the kiosk itself recorded the event."""
    if document.get("method") != MANUAL:
        return None
    voids = document.get("voids")
    return ManualEvidence(document["reason"], None if voids is None else VoidedEvent.model_validate(voids))


def explain_code(evidence: CodeEvidence) -> str:
    """The outcome and its reason in one plain ASCII sentence."""
    kind = {"pin": "PIN", "badge": "badge"}.get(evidence.kind, evidence.kind)
    if evidence.reason == Reason.MATCH:
        return f"accepted: by the subject's own {kind}; no face was compared"
    return f"not accepted: {_CODE_REFUSALS.get(evidence.reason, evidence.reason).format(kind=kind)}"


def gather_evidence(
    decision: Decision,
    *,
    gallery_size: int | None = None,
    model_id: ModelId | None = None,
    threshold_source: str | None = None,
    pad: Pad | None = None,
) -> Evidence:
    """The evidence of a decision just made. ``threshold_source``: why the threshold is what it is, in words.

    ``pad``: told instead of what the decision has.
    """
    return Evidence(
        verdict=decision.verdict,
        reason=decision.reason,
        threshold=decision.threshold,
        candidates=decision.candidates,
        frames=decision.frames,
        frame_evidence=tuple(
            FrameFigures(
                frame.candidates,
                frame.offset_s,
                frame.weight,
                _measures(frame.quality),
                None if frame.pad is None else frame.pad.score,
            )
            for frame in decision.frame_evidence
        ),
        quality=None if decision.quality is None else _measures(decision.quality),
        margin=decision.margin,
        margin_needed=decision.margin_needed,
        threshold_source=threshold_source,
        gallery_size=gallery_size,
        model=model_id,
        pad=(pad or pad_of(decision)).payload(),
    )


def read_evidence(document: Mapping[str, Any]) -> Evidence:
    """Evidence as stored, also by the version that kept one score a frame (``frame_scores``) and check-ins alone."""
    match = document["match"]
    candidates = _candidates(document["candidates"])
    return Evidence(
        verdict=Verdict(document.get("decision", Verdict.IDENTIFIED)),
        reason=document.get("reason", Reason.MATCH),
        threshold=match["threshold"],
        candidates=candidates,
        frames=match["frames"],
        frame_evidence=tuple(_frames(document, candidates)),
        quality=document.get("quality"),
        margin=match["margin"],
        margin_needed=document.get("margin_needed"),
        threshold_source=document.get("threshold_source"),
        gallery_size=match["gallery_size"],
        model=match["model"],
        pad=document.get("pad"),
    )


def mentioned_subjects(document: Mapping[str, Any]) -> set[str]:
    """The ids of all subjects a stored document compares with."""
    return {candidate["subject_id"] for candidate in _mentions(document) if candidate["subject_id"] is not None}


def erase_mentions(document: Mapping[str, Any], subject_ids: Collection[str]) -> None:
    """Take these ids out of a stored document, in place; their scores stay, so that the decision still adds up."""
    for candidate in _mentions(document):
        if candidate["subject_id"] in subject_ids:
            candidate["subject_id"] = None


def explain_outcome(evidence: Evidence) -> str:
    """The outcome and its reason in one plain ASCII sentence."""
    if evidence.verdict is Verdict.IDENTIFIED:
        return f"accepted: {evidence.candidates[0].subject_id} {_score_words(evidence)}{_lead_words(evidence)}"
    return f"not accepted: {_refusal_words(evidence)}"


def advise(evidence: Evidence | CodeEvidence) -> str | None:
    """What to do about a decision that was not accepted, None where there is nothing to do."""
    return _ADVICE.get(evidence.reason)


def describe_quality(quality: QualityFigures) -> list[str]:
    """Each figure with its name and unit, ASCII; what is None is left out, as is the verdict on them."""
    return [
        f"{_figure_name(name)} {_shown_figure(name, value)}"
        for name, value in quality.items()
        if name != "failure" and value is not None
    ]


def _refusal_words(evidence: Evidence) -> str:
    match evidence.reason:
        case Reason.UNKNOWN if evidence.candidates:
            return f"the most alike subject, {evidence.candidates[0].subject_id}, {_score_words(evidence)}"
        case Reason.AMBIGUOUS:
            lead = _lead_words(evidence, but="but", only="only ")
            return f"{evidence.candidates[0].subject_id} {_score_words(evidence)}{lead}"
        case Reason.SPOOF:
            return f"this looks like a picture of a face, not like a person{_live_words(evidence)}"
        case Reason.EMPTY_GALLERY:
            return "nobody is enrolled to compare with"
        case Reason.UNKNOWN:
            return "unknown"
    flaw, figures = _FLAWS.get(evidence.reason, (evidence.reason.replace("_", " "), ()))
    quality = evidence.quality or {}
    figure = next((name for name in figures if quality.get(name) is not None), None)
    measured = "" if figure is None else f" ({_figure_name(figure)} {_shown_figure(figure, quality[figure])})"
    return f"the face was {flaw}{measured}"


def _live_words(evidence: Evidence) -> str:
    score = (evidence.pad or {}).get("score")
    return "" if score is None else f" (live score {score:.3f} of 1)"


def _score_words(evidence: Evidence) -> str:
    """The first candidate's score and how far that is from the threshold."""
    first = evidence.candidates[0]
    # Differences of the figures as printed: a reader will do the sum.
    gap = round(first.score, 3) - round(evidence.threshold, 3)
    side = "above" if first.score >= evidence.threshold else "below"
    distance = f"{abs(gap):.3f}" if round(abs(gap), 3) else "less than 0.001"
    return f"scored {first.score:.3f}, {distance} {side} the threshold {evidence.threshold:.3f}"


def _lead_words(evidence: Evidence, *, but: str = "and", only: str = "") -> str:
    if len(evidence.candidates) < 2:
        return "; nobody else is enrolled"
    first, second = evidence.candidates[:2]
    needed = "" if evidence.margin_needed is None else f" ({evidence.margin_needed:.3f} needed)"
    lead = round(first.score, 3) - round(second.score, 3)
    return f", {but} led the next subject {second.subject_id} by {only}{lead:.3f}{needed}"


def _frames(document: Mapping[str, Any], fused: tuple[Candidate, ...]) -> Iterator[FrameFigures]:
    for frame in document.get("frame_evidence", ()):
        yield FrameFigures(
            _candidates(frame["candidates"]),
            frame["offset_s"],
            frame["weight"],
            frame["quality"],
            frame.get("live_score"),
        )
    for score in document.get("frame_scores", ()):
        yield FrameFigures((Candidate(fused[0].subject_id, score),))


def _candidates(documents: Collection[Mapping[str, Any]]) -> tuple[Candidate, ...]:
    return tuple(
        Candidate(ERASED if document["subject_id"] is None else document["subject_id"], document["score"])
        for document in documents
    )


def _mentions(document: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    yield from document["candidates"]
    for frame in document.get("frame_evidence", ()):
        yield from frame["candidates"]


def _candidate_documents(candidates: Collection[Candidate]) -> list[dict[str, Any]]:
    return [
        {
            "subject_id": None if candidate.subject_id == ERASED else candidate.subject_id,
            "score": rounded_score(candidate.score),
        }
        for candidate in candidates
    ]


def _frame_document(frame: FrameFigures) -> dict[str, Any]:
    return {
        "offset_s": _figure(frame.offset_s, _FIGURE_DIGITS),
        "weight": _figure(frame.weight, 4),
        "candidates": _candidate_documents(frame.candidates),
        "quality": _figures(frame.quality),
        # Every byte wears the card: nothing is said of what was not looked at.
        **({} if frame.live_score is None else {"live_score": _figure(frame.live_score, _FIGURE_DIGITS)}),
    }


def _measures(quality: Quality) -> QualityFigures:
    """Without numpy's scalars, which JSON does not know."""
    return {key: value.item() if hasattr(value, "item") else value for key, value in asdict(quality).items()}


def _figures(quality: QualityFigures | None) -> dict[str, Any] | None:
    if quality is None:
        return None
    return {
        name: _figure(value, _FIGURE_DIGITS) if isinstance(value, float) else value for name, value in quality.items()
    }


def _figure(value: float | None, digits: int) -> float | None:
    """What is not finite has no place in JSON."""
    return None if value is None or not math.isfinite(value) else round(float(value), digits)


def _rounded_or_none(score: float | None) -> float | None:
    return None if score is None else rounded_score(score)


def _figure_name(name: str) -> str:
    return name.removesuffix("_px").replace("_", " ")


def _shown_figure(name: str, value: object) -> str:
    if not isinstance(value, float | int) or isinstance(value, bool):
        return str(value)
    if name.endswith("_px"):
        return f"{value:.0f} px"
    # Grey levels and variances are in the tens and hundreds, ratios and angles below one.
    return f"{value:.0f}" if abs(value) >= 10 else f"{value:z.2f}"
