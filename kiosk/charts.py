"""Charts as PNG files: score histograms, error rate curves. Matplotlib, without a display and without its global state.

Colours are those of Okabe and Ito, told apart by people with any colour vision; lines differ in their dashes as well.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from kiosk.errors import OutputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Scale = Literal["linear", "log", "probit"]

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_DASHES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (3, 1, 1, 1, 1, 1)), (0, (7, 2)), (0, (1, 2)))
_GENUINE, _IMPOSTOR = _COLOURS[0], _COLOURS[1]
_BINS = 60
_DPI = 120
_WIDTH_IN = 8.0
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


def _new_figure(height_in: float) -> Figure:
    # An error is our one line: Matplotlib's remarks on its font cache are none.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH_IN, height_in), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Figure, path: Path) -> None:
    part = path.with_name(path.name + ".part")
    try:
        figure.savefig(part, format="png")
        part.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise OutputError(f"{path}: cannot be written: {error.strerror}; choose another place") from error
