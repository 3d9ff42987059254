"""Charts of figures, with matplotlib: one picture each, written to a file. Loaded only where a chart is asked for."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kiosk.biometrics import SubjectId, Verdict
from kiosk.errors import OutputError
from kiosk.evidence import Evidence, FrameFigures, QualityFigures, explain_outcome

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_FIRST, _SECOND, _LIMIT, _QUIET = "tab:blue", "tab:orange", "tab:red", "0.6"
_OUTCOME = {Verdict.IDENTIFIED: "tab:green", Verdict.UNKNOWN: "tab:red", Verdict.REJECTED: "tab:orange"}


def plot_decision(path: Path, evidence: Evidence, *, title: str) -> None:
    """Scores of the two leading subjects over a track's frames, threshold and fused score; below, each frame's quality.

    Raises:
        OutputError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    frames = evidence.frame_evidence
    figure = Figure(figsize=(9, 6.5), layout="constrained")
    scores, measures = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    figure.suptitle(title)
    words = "\n".join(textwrap.wrap(explain_outcome(evidence), 100))
    scores.set_title(words, fontsize="small", color=_OUTCOME[evidence.verdict])
    times_s = [i + 1 if frame.offset_s is None else frame.offset_s for i, frame in enumerate(frames)]
    _draw_scores(scores, times_s, evidence)
    _draw_quality(measures, times_s, frames)
    if all(frame.offset_s is not None for frame in frames):
        measures.set_xlabel("seconds since the face came into view")
    else:
        measures.set_xlabel("frame")
        measures.xaxis.get_major_locator().set_params(integer=True)
    try:
        figure.savefig(path, dpi=120)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}; choose another place") from error


def _draw_scores(axes: Axes, times_s: Sequence[float], evidence: Evidence) -> None:
    axes.axhline(evidence.threshold, color=_LIMIT, linestyle="--", label=f"threshold {evidence.threshold:.3f}")
    for candidate, colour, marker in zip(evidence.candidates, (_FIRST, _SECOND), "os", strict=False):
        fused = f"fused {candidate.score:.3f}: {candidate.subject_id}"
        axes.axhline(candidate.score, color=colour, linestyle=":", label=fused)
        points = _series(candidate.subject_id, times_s, evidence.frame_evidence)
        if points:
            axes.plot(
                *zip(*points, strict=True), color=colour, marker=marker, label=f"by frame: {candidate.subject_id}"
            )
    leaders = {candidate.subject_id for candidate in evidence.candidates[:2]}
    strays = [
        (time_s, candidate.score)
        for time_s, frame in zip(times_s, evidence.frame_evidence, strict=True)
        for candidate in frame.candidates[:2]
        if candidate.subject_id not in leaders
    ]
    if strays:
        axes.plot(*zip(*strays, strict=True), "x", color=_QUIET, label="somebody else, among a frame's best two")
    if not evidence.frame_evidence:
        axes.text(0.5, 0.5, "no frames recorded", transform=axes.transAxes, ha="center", color=_QUIET)
    axes.set_ylabel("score (cosine similarity)")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", loc="best")


def _series(
    subject_id: SubjectId, times_s: Sequence[float], frames: Sequence[FrameFigures]
) -> list[tuple[float, float]]:
    """One subject's score in each frame that has one."""
    found = []
    for time_s, frame in zip(times_s, frames, strict=True):
        score = next((candidate.score for candidate in frame.candidates if candidate.subject_id == subject_id), None)
        if score is not None:
            found.append((time_s, score))
    return found


def _draw_quality(axes: Axes, times_s: Sequence[float], frames: Sequence[FrameFigures]) -> None:
    """Weight as bars, and every figure of quality relative to its largest, so that one scale shows them all."""
    weights = [frame.weight or 0.0 for frame in frames]
    if any(weights):
        step_s = min((b - a for a, b in itertools.pairwise(times_s)), default=0.1)
        heights = [weight / max(weights) for weight in weights]
        axes.bar(times_s, heights, width=0.6 * step_s, color="0.85", label=f"weight (1 = {max(weights):.0%})")
    qualities = [frame.quality or {} for frame in frames]
    for name in _numeric(qualities):
        values = [quality.get(name) for quality in qualities]
        known = [(time_s, abs(value)) for time_s, value in zip(times_s, values, strict=True) if value is not None]
        largest = max(value for _, value in known) or 1.0
        x, y = zip(*known, strict=True)
        shown = f"|{name}|" if any(value is not None and value < 0 for value in values) else name.replace("_", " ")
        unit = f"{largest:.0f}" if largest >= 10 else f"{largest:.2f}"
        axes.plot(x, [value / largest for value in y], marker=".", label=f"{shown} (1 = {unit})")
    if axes.has_data():
        axes.legend(fontsize="x-small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    else:
        axes.text(0.5, 0.5, "no quality recorded by frame", transform=axes.transAxes, ha="center", color=_QUIET)
    axes.set_ylim(0, 1.1)
    axes.set_ylabel("share of the largest")
    axes.grid(alpha=0.3)


def _numeric(qualities: Sequence[QualityFigures]) -> list[str]:
    """The names of all figures that are numbers in at least one frame."""
    return list(
        dict.fromkeys(
            name
            for quality in qualities
            for name, value in quality.items()
            if isinstance(value, float | int) and not isinstance(value, bool)
        )
    )
