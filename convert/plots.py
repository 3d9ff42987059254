"""The charts of an evaluation: all runs in one figure each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from convert.identification import Searches
from convert.metrics import curve_points, make_curve
from convert.results import Result
from convert.verification import Comparisons
from kiosk.charts import Axis, Line, Scores, Threshold, draw_curves, draw_scores
from kiosk.errors import OutputError

# No axis reaches below this, nor below what was counted: half an error.
_LEAST_RATE = 1e-4


def make_folder(folder: Path) -> None:
    """
    Raises:
        OutputError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made: {error.strerror}; choose another place for --plots") from error


def draw_results(folder: Path, results: Sequence[Result]) -> list[Path]:
    """Write the PNGs that the results allow: ``roc``, ``det``, ``scores`` of pairs; ``identification`` and
    ``search-scores`` of searches.

    Raises:
        OutputError: one cannot be written.
    """
    written: list[Path] = []
    compared = [(result, result.comparisons) for result in results if result.comparisons is not None]
    if compared:
        written += _draw_verification(folder, compared)
    searched = [(result, result.searches) for result in results if result.searches is not None]
    if searched:
        written += _draw_identification(folder, searched)
    return written


def _draw_verification(folder: Path, compared: Sequence[tuple[Result, Comparisons]]) -> list[Path]:
    roc, det = [], []
    for result, comparisons in compared:
        points = curve_points(make_curve(comparisons.scores, comparisons.same), most=2000)
        eer = result.document["eer"]
        marks = [] if eer is None else [(eer, eer)]
        name = result.label if eer is None else f"{result.label} (EER {eer:.2%})"
        roc.append(Line(name, points[:, 0], points[:, 1]))
        det.append(Line(name, points[:, 0], 1 - points[:, 1], marks))
    pairs, same = len(compared[0][1].scores), int(compared[0][1].same.sum())
    least_far, least_frr = _least(pairs - same), _least(same)
    paths = [folder / name for name in ("roc.png", "det.png", "scores.png")]
    draw_curves(
        paths[0],
        roc,
        title=f"Verification, {pairs:,} pairs: ROC",
        x=Axis("false accept rate (FAR)", "log", least_far, 1.0),
        y=Axis("true accept rate (TAR)", low=_floor([line.y for line in roc]), high=1.005),
    )
    draw_curves(
        paths[1],
        det,
        title=f"Verification, {pairs:,} pairs: DET (dots: equal error rate)",
        x=Axis("false accept rate (FAR)", "probit", least_far, 0.5),
        y=Axis("false reject rate (1 − TAR)", "probit", least_frr, 0.5),
    )
    draw_scores(
        paths[2],
        [_pair_panel(result, comparisons) for result, comparisons in compared],
        title=f"Scores of {pairs:,} pairs",
    )
    return paths


def _pair_panel(result: Result, comparisons: Comparisons) -> Scores:
    scores, same = comparisons.scores, comparisons.same
    found = ~np.isnan(scores)
    threshold = Threshold(result.document["threshold"], "threshold")
    return Scores(result.label, scores[found & same], scores[found & ~same], [threshold])


def _draw_identification(folder: Path, searched: Sequence[tuple[Result, Searches]]) -> list[Path]:
    lines, panels = [], []
    for result, searches in searched:
        figures = result.document["identification"]
        points = curve_points(searches.curve(), most=2000)
        automatic = [point for point in figures["automatic"] if point["threshold"] is not None]
        lines.append(
            Line(result.label, points[:, 0], 1 - points[:, 1], [(point["fpir"], point["fnir"]) for point in automatic])
        )
        thresholds = [Threshold(point["threshold"], f"auto, FPIR {point['stated_fpir']:g}:") for point in automatic]
        hits, nearest = searches.own_scores, searches.nearest_scores
        panels.append(
            Scores(
                result.label,
                hits[~np.isnan(hits)],
                nearest[np.isfinite(nearest)],
                thresholds,
                genuine_label="enrolled, own score",
                impostor_label="strangers, best score",
            )
        )
    first = searched[0][1]
    enrolled = searched[0][0].document["identification"]["enrolled"]
    title = f"Identification among {enrolled:,} subjects"
    paths = [folder / name for name in ("identification.png", "search-scores.png")]
    draw_curves(
        paths[0],
        lines,
        title=f"{title} (dots: automatic thresholds)",
        x=Axis("false positive identification rate (FPIR)", "log", _least(len(first.nearest_scores)), 1.0),
        y=Axis("false negative identification rate (FNIR)", "log", _least(len(first.own_scores)), 1.0),
    )
    draw_scores(paths[1], panels, title=title)
    return paths


def _least(count: int) -> float:
    """The lower end of the axis of a rate that ``count`` trials show."""
    return min(max(0.5 / max(count, 1), _LEAST_RATE), 0.1)


def _floor(tars: Sequence[np.ndarray]) -> float:
    """The lower end of a TAR axis that shows all curves from the smallest rates on."""
    least = min((float(tar.min()) for tar in tars if len(tar)), default=0.0)
    return max(math.floor(least * 20) / 20 - 0.005, -0.005)
