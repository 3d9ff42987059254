"""Confidence intervals: how far a figure would move if other people had been photographed.

Scores are not independent: one person's photos appear in many pairs and searches. People are, so people are drawn with
replacement, and a comparison counts as often as the people in it were drawn: a pair of one person as often as that
person, a pair of two people as often as both together (the product), a search as often as whoever was searched.
(Resampling both sides of an array of comparisons: Owen, The pigeonhole bootstrap, 2007.) Intervals are percentiles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from convert.metrics import Scores

LEVEL = 0.95
RESAMPLES = 1000
SEED = 20180402
_BLOCK = 4_000_000
"""Weights held in memory at a time."""

Interval = tuple[float, float]


def resample_people(
    first: Sequence[str], second: Sequence[str] | None = None, *, resamples: int = RESAMPLES, seed: int = SEED
) -> Iterator[Scores]:
    """Weights of comparisons, in blocks of shape (some resamples, comparisons); the same seed gives the same weights.

    ``first``, ``second``: the person on each side of every comparison; ``second`` is left out where only one side's
    people are resampled. People who are in no comparison must not be there: they would be drawn for nothing.
    """
    names, indices = np.unique([*first, *(second or ())], return_inverse=True)
    a, b = indices[: len(first)], indices[len(first) :]
    random = np.random.default_rng(seed)
    rows = max(_BLOCK // max(len(a), 1), 1)
    for start in range(0, resamples, rows):
        count = min(rows, resamples - start)
        drawn = random.multinomial(len(names), np.full(len(names), 1 / len(names)), size=count).astype(np.float64)
        yield _weights(drawn, a, b)


def _weights(drawn: Scores, a: NDArray[np.intp], b: NDArray[np.intp]) -> Scores:
    if not len(b):
        return drawn[:, a]
    return np.where(a == b, drawn[:, a], drawn[:, a] * drawn[:, b])


def intervals(blocks: Iterator[Scores], figures: Callable[[Scores], Mapping[str, Scores]]) -> dict[str, Interval]:
    """The interval of every figure that ``figures`` computes from a block of weights, as (resamples,) each.

    A resample in which a figure is not defined (no pair of one kind) does not count; a figure defined in none has no
    interval.
    """
    samples: dict[str, list[Scores]] = {}
    for weights in blocks:
        for name, values in figures(weights).items():
            samples.setdefault(name, []).append(values)
    joined = {name: np.concatenate(parts) for name, parts in samples.items()}
    return {name: _percentiles(values) for name, values in joined.items() if not np.isnan(values).all()}


def _percentiles(values: Scores) -> Interval:
    tail = 50 * (1 - LEVEL)
    low, high = np.nanpercentile(values, [tail, 100 - tail])
    return float(low), float(high)
