"""Charts as pictures: score histograms, error rate curves, what a decision rests on. Matplotlib, without a
display and without its global state.

Colours are those of Okabe and Ito, told apart by people with any colour vision; lines differ in their dashes as well.
"""

from __future__ import annotations

import itertools
import logging
import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from kiosk.errors import OutputError
from kiosk.files import write_private

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from kiosk.evidence import Evidence, FrameFigures, QualityFigures

Scale = Literal["linear", "log", "probit"]

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_DASHES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (3, 1, 1, 1, 1, 1)), (0, (7, 2)), (0, (1, 2)))
_GENUINE, _IMPOSTOR = _COLOURS[0], _COLOURS[1]
_FIRST, _SECOND = _COLOURS[:2]
_PALE, _MUTED = "0.85", "0.5"
_BINS = 60
_DPI = 120
_WIDTH_IN = 8.0
_DECISION_HEIGHT_IN = 6.5
_TITLE_CHARACTERS = 100
# Where a probit axis is marked. Rates beyond its ends are drawn at the end.
_PROBIT_TICKS = (1e-4, 1e-3, 5e-3, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4)
_NORMAL = NormalDist()

Values = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class Threshold:
    """A line in a histogram, with what it stands for."""

    score: float
    label: str


@dataclass(frozen=True, slots=True)
class Scores:
    """One panel of histograms: scores of the same and of different people (either may be empty; no NaN)."""

    label: str
    genuine: Values
    impostor: Values
    thresholds: Sequence[Threshold] = ()
    genuine_label: str = "same person"
    impostor_label: str = "different people"


@dataclass(frozen=True, slots=True)
class Line:
    """One curve: x and y, (n,) each; ``marks`` are points on it worth seeing, as (x, y)."""

    label: str
    x: Values
    y: Values
    marks: Sequence[tuple[float, float]] = ()


@dataclass(frozen=True, slots=True)
class Axis:
    """A named axis. ``low`` and ``high`` are its ends; on a log or probit axis smaller values are drawn at ``low``."""

    label: str
    scale: Scale = "linear"
    low: float = 0.0
    high: float = 1.0


def draw_scores(
    path: Path, panels: Sequence[Scores], *, title: str, x_label: str = "score (cosine similarity)"
) -> None:
    """Histograms with their thresholds as a PNG, a panel each, one below the other; each kind sums up to 100 %.

    Raises:
        OutputError: the file cannot be written.
    """
    figure = _new_figure(1.2 + 2.8 * len(panels))
    axes = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
    for panel, ax in zip(panels, axes, strict=True):
        _draw_panel(ax, panel)
        ax.set_title(panel.label, loc="left", fontsize=10)
    axes[-1].set_xlabel(x_label)
    figure.suptitle(title)
    _save(figure, path)


def _draw_panel(ax: Axes, panel: Scores) -> None:
    everything = np.concatenate([panel.genuine, panel.impostor, [line.score for line in panel.thresholds]])
    low, high = (float(everything.min()), float(everything.max())) if len(everything) else (0.0, 1.0)
    edges = np.linspace(low, high if high > low else low + 1e-3, _BINS + 1).tolist()
    for values, label, colour, hatch in (
        (panel.impostor, panel.impostor_label, _IMPOSTOR, "////"),
        (panel.genuine, panel.genuine_label, _GENUINE, None),
    ):
        if len(values):
            share = np.full(len(values), 100 / len(values))
            name = f"{label} ({len(values):,})"
            ax.hist(values, edges, weights=share, color=colour, alpha=0.55, label=name, hatch=hatch, edgecolor="white")
    for line, dashes in zip(panel.thresholds, _repeat(_DASHES[1:], len(panel.thresholds)), strict=True):
        ax.axvline(line.score, color="black", linestyle=dashes, label=f"{line.label} {line.score:.3f}")
    ax.set_ylabel("share, %")
    ax.grid(alpha=0.3)
    if len(everything):
        ax.legend(fontsize=8)


def draw_curves(path: Path, lines: Sequence[Line], *, title: str, x: Axis, y: Axis) -> None:
    """Curves in one chart with a legend, as a PNG.

    Raises:
        OutputError: the file cannot be written.
    """
    figure = _new_figure(6.0)
    ax = figure.subplots()
    styles = zip(lines, _repeat(_COLOURS, len(lines)), _repeat(_DASHES, len(lines)), strict=True)
    for line, colour, dashes in styles:
        across, up = _clip(line.x, x), _clip(line.y, y)
        ax.plot(across, up, color=colour, linestyle=dashes, linewidth=1.8, label=line.label, drawstyle="steps-post")
        if line.marks:
            points = np.array(line.marks, float)
            ax.plot(_clip(points[:, 0], x), _clip(points[:, 1], y), "o", color=colour, markeredgecolor="white")
    _set_axis(x, ax.set_xscale, ax.set_xlim, ax.set_xlabel)
    _set_axis(y, ax.set_yscale, ax.set_ylim, ax.set_ylabel)
    for drawn, axis in ((ax.xaxis, x), (ax.yaxis, y)):
        if axis.scale == "probit":
            # A tick beyond an end would move the end.
            ticks = [tick for tick in _PROBIT_TICKS if axis.low <= tick <= axis.high]
            drawn.set_ticks(ticks, [f"{tick:.4g}" for tick in ticks])
            drawn.set_ticks([], minor=True)
    ax.grid(alpha=0.3, which="both" if x.scale == "log" else "major")
    ax.set_title(title)
    if lines:
        ax.legend(fontsize=9)
    _save(figure, path)


def _set_axis(
    axis: Axis,
    set_scale: Callable[..., Any],
    set_limits: Callable[..., Any],
    set_label: Callable[..., Any],
) -> None:
    match axis.scale:
        case "probit":
            set_scale("function", functions=(_probit, _normal_share))
        case "log":
            set_scale("log")
    set_limits(axis.low, axis.high)
    set_label(axis.label)


def _clip(values: Values, axis: Axis) -> Values:
    clipped: Values = np.clip(values, axis.low, axis.high)
    return clipped


def _probit(shares: Values) -> Values:
    """The normal deviate of a share: on such axes the curve of two normal distributions is a straight line."""
    ends = np.clip(np.asarray(shares, float), 1e-9, 1 - 1e-9)
    deviates: Values = np.vectorize(_NORMAL.inv_cdf, otypes=[float])(ends)
    return deviates


def _normal_share(deviates: Values) -> Values:
    shares: Values = np.vectorize(_NORMAL.cdf, otypes=[float])(np.asarray(deviates, float))
    return shares


def _repeat(styles: tuple[Any, ...], count: int) -> tuple[Any, ...]:
    return (styles * math.ceil(count / len(styles)))[:count]


def draw_decision(path: Path, evidence: Evidence, *, title: str, explanation: str) -> None:
    """The two leading subjects' scores over a track's frames, threshold and fused scores; below, each frame's quality.

    Raises:
        OutputError: the file cannot be written.
    """
    figure = _new_figure(_DECISION_HEIGHT_IN)
    scores, measures = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    figure.suptitle(title)
    scores.set_title(textwrap.fill(explanation, _TITLE_CHARACTERS), fontsize="small")
    frames = evidence.frame_evidence
    times_s = [i + 1 if frame.offset_s is None else frame.offset_s for i, frame in enumerate(frames)]
    _draw_frame_scores(scores, times_s, evidence)
    _draw_frame_quality(measures, times_s, frames)
    if all(frame.offset_s is not None for frame in frames):
        measures.set_xlabel("seconds since the face came into view")
    else:
        measures.set_xlabel("frame")
        measures.xaxis.get_major_locator().set_params(integer=True)
    _save(figure, path)


def _draw_frame_scores(axes: Axes, times_s: Sequence[float], evidence: Evidence) -> None:
    axes.axhline(evidence.threshold, color="black", linestyle="--", label=f"threshold {evidence.threshold:.3f}")
    for candidate, colour, marker in zip(evidence.candidates, (_FIRST, _SECOND), "os", strict=False):
        fused = f"fused {candidate.score:.3f}: {candidate.subject_id}"
        axes.axhline(candidate.score, color=colour, linestyle=":", label=fused)
        points = _frame_scores(candidate.subject_id, times_s, evidence.frame_evidence)
        if points:
            label = f"by frame: {candidate.subject_id}"
            axes.plot(*zip(*points, strict=True), color=colour, marker=marker, label=label)
    leaders = {candidate.subject_id for candidate in evidence.candidates[:2]}
    strays = [
        (time_s, candidate.score)
        for time_s, frame in zip(times_s, evidence.frame_evidence, strict=True)
        for candidate in frame.candidates[:2]
        if candidate.subject_id not in leaders
    ]
    if strays:
        axes.plot(*zip(*strays, strict=True), "x", color=_MUTED, label="somebody else among a frame's best two")
    if not evidence.frame_evidence:
        axes.text(0.5, 0.5, "no frame was compared", transform=axes.transAxes, ha="center", color=_MUTED)
    axes.set_ylabel("score (cosine similarity)")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="x-small", loc="center left", bbox_to_anchor=(1.0, 0.5))


def _frame_scores(
    subject_id: str, times_s: Sequence[float], frames: Sequence[FrameFigures]
) -> list[tuple[float, float]]:
    """One subject's score in each frame that has one."""
    found = []
    for time_s, frame in zip(times_s, frames, strict=True):
        score = next((candidate.score for candidate in frame.candidates if candidate.subject_id == subject_id), None)
        if score is not None:
            found.append((time_s, score))
    return found


def _draw_frame_quality(axes: Axes, times_s: Sequence[float], frames: Sequence[FrameFigures]) -> None:
    """Weights as bars, and each measure of quality as a share of its largest, so that one scale shows them all."""
    weights = [frame.weight or 0.0 for frame in frames]
    if any(weights):
        step_s = min((b - a for a, b in itertools.pairwise(times_s)), default=0.1)
        heights = [weight / max(weights) for weight in weights]
        axes.bar(times_s, heights, width=0.6 * step_s, color=_PALE, label=f"weight (1 = {max(weights):.0%})")
    qualities = [frame.quality or {} for frame in frames]
    # Another dash with each round of the colours.
    styles = itertools.product(_DASHES, _COLOURS)
    for name, (dashes, colour) in zip(_measured(qualities), styles, strict=False):
        known = [(t, quality[name]) for t, quality in zip(times_s, qualities, strict=True) if _is_number(quality, name)]
        largest = max(abs(value) for _, value in known)
        unit = f"{largest:.0f}" if largest >= 10 else f"{largest:.2f}"
        shown = f"|{name}|" if any(value < 0 for _, value in known) else name.replace("_", " ")
        points = [(time_s, abs(value) / largest) for time_s, value in known]
        style: Any = {"linestyle": dashes, "color": colour, "marker": "."}
        axes.plot(*zip(*points, strict=True), **style, label=f"{shown} (1 = {unit})")
    if axes.has_data():
        axes.legend(fontsize="x-small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    else:
        axes.text(0.5, 0.5, "no quality recorded by frame", transform=axes.transAxes, ha="center", color=_MUTED)
    axes.set_ylim(0, 1.1)
    axes.set_ylabel("share of the largest")
    axes.grid(alpha=0.3)


def _measured(qualities: Sequence[QualityFigures]) -> list[str]:
    """The names of all measures that are more than zero in at least one frame: others have nothing to show."""
    found = (name for quality in qualities for name in quality if _is_number(quality, name) and quality[name])
    return list(dict.fromkeys(found))


def _is_number(quality: QualityFigures, name: str) -> bool:
    value = quality.get(name)
    return isinstance(value, float | int) and not isinstance(value, bool)


def _new_figure(height_in: float) -> Figure:
    # An error is our one line: Matplotlib's remarks on its font cache are none.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH_IN, height_in), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Figure, path: Path) -> None:
    """For nobody but the owner to read: what a decision rests on names people."""
    picture = BytesIO()
    figure.savefig(picture, format=path.suffix.lower().removeprefix("."))
    try:
        write_private(path, picture.getvalue())
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}; choose another place") from error
