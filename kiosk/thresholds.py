"""The score a search needs: from a false positive identification rate, the gallery's size, and templates a subject.

A bundle carries the distribution of strangers' best scores, measured in random galleries of several sizes; this
module reads the threshold for the gallery at hand off it. Pure arithmetic.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

Scores = NDArray[np.float64]

_SCORE_STEP = 1e-4
# No cosine is higher; with the crowd's share taken off, none is lower than this.
_LOWEST, _HIGHEST = -2.0, 1.0


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class StrangerScores(_Record):
    """Best scores of strangers in galleries of ``subjects`` subjects with ``templates`` fused photos each.

    ``scores[i]`` is the score that a share ``fpirs[i]`` of their searches reaches; the crowd's share is taken off
    (see :class:`SearchScores`). ``fnirs[i]``: share of enrolled people's searches that miss at that score.
    """

    subjects: int = Field(ge=1)
    templates: int = Field(ge=1)
    scores: tuple[float, ...]
    fnirs: tuple[float | None, ...] = ()


class SearchScores(_Record):
    """What 1:N searches by strangers score, measured.

    A face that resembles many enrolled people needs a higher score to be one of them: the mean score of the next
    ``crowd_size`` subjects, times ``crowd_weight``, is added to the threshold (test normalization against the gallery
    as its own cohort: Auckenthaler, Carey and Lloyd-Thomas, "Score normalization for text-independent speaker
    verification systems", 2000; here with the nearest subjects only).
    """

    crowd_size: int = Field(ge=0)
    crowd_weight: float = Field(ge=0, le=1)
    fpirs: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(min_length=2)
    """Falling."""
    galleries: tuple[StrangerScores, ...] = Field(min_length=1)
    measured_on: str

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if any(less >= more for more, less in itertools.pairwise(self.fpirs)):
            raise ValueError("fpirs must fall")
        if any(len(gallery.scores) != len(self.fpirs) for gallery in self.galleries):
            raise ValueError("every gallery needs a score for each of the fpirs")
        kinds = {(gallery.subjects, gallery.templates) for gallery in self.galleries}
        if len(kinds) != len(self.galleries):
            raise ValueError("two galleries of one size")
        return self

    def take_off_crowd(self, similarities: Scores) -> Scores:
        """Cosine similarities of searches (n, subjects) as they compare with :meth:`threshold`.

        -inf marks a subject who is left out; in every row as many.
        """
        return take_off_crowd(similarities, self.crowd_size, self.crowd_weight)

    def threshold(self, subjects_by_templates: Mapping[int, int], fpir: float) -> float:
        """The score, crowd's share taken off, that a stranger's search reaches with probability ``fpir``.

        ``subjects_by_templates``: how many subjects have so many templates. Subjects with more templates than were
        measured count as the most that was; in between, and between measured gallery sizes, the score is interpolated
        over the logarithm of the size.
        """
        kinds = self._kinds(subjects_by_templates)
        low, high = _LOWEST, _HIGHEST
        while high - low > _SCORE_STEP:
            middle = (low + high) / 2
            if self._rate(kinds, middle) > fpir:
                low = middle
            else:
                high = middle
        return high

    def fpir(self, subjects_by_templates: Mapping[int, int], score: float) -> float:
        """The share of strangers' searches that reach ``score`` (crowd's share taken off), 0–1."""
        return self._rate(self._kinds(subjects_by_templates), score)

    def _kinds(self, subjects_by_templates: Mapping[int, int]) -> list[tuple[float, Sequence[float]]]:
        """Each kind of subject: its share, and the scores at ``fpirs`` of a gallery of its kind alone."""
        subjects = max(sum(subjects_by_templates.values()), 1)
        shares = subjects_by_templates or {1: 1}
        total = sum(shares.values())
        return [(count / total, self._scores_for(subjects, templates)) for templates, count in shares.items()]

    def _rate(self, kinds: Sequence[tuple[float, Sequence[float]]], score: float) -> float:
        # Each kind of subject brings the false positives that a gallery of its kind alone would, times its share.
        return sum(share * self._rate_at(scores, score) for share, scores in kinds)

    def _scores_for(self, subjects: int, templates: int) -> Sequence[float]:
        """Scores at ``fpirs`` for a gallery of one kind."""
        kinds = sorted({gallery.templates for gallery in self.galleries})
        at = bisect.bisect_left(kinds, templates)
        if at == len(kinds):
            return self._interpolated(subjects, kinds[-1])
        if kinds[at] == templates or at == 0:
            return self._interpolated(subjects, kinds[at])
        below, above = kinds[at - 1], kinds[at]
        weight = (templates - below) / (above - below)
        return _mixed(self._interpolated(subjects, below), self._interpolated(subjects, above), weight)

    def _interpolated(self, subjects: int, templates: int) -> Sequence[float]:
        """Between the two measured sizes around ``subjects``; beyond the largest the last slope goes on."""
        rows = sorted((g for g in self.galleries if g.templates == templates), key=lambda g: g.subjects)
        if len(rows) == 1 or subjects <= rows[0].subjects:
            return rows[0].scores
        at = min(bisect.bisect_left([row.subjects for row in rows], subjects), len(rows) - 1)
        below, above = rows[at - 1], rows[at]
        weight = math.log(subjects / below.subjects) / math.log(above.subjects / below.subjects)
        return _mixed(below.scores, above.scores, weight)

    def _rate_at(self, scores: Sequence[float], score: float) -> float:
        """The rate whose score is ``score``: linear in its logarithm between points and beyond them."""
        at = min(max(bisect.bisect_left(scores, score), 1), len(scores) - 1)
        (low, high), (more, less) = scores[at - 1 : at + 1], self.fpirs[at - 1 : at + 1]
        slope = math.log(less / more) / max(high - low, _SCORE_STEP)
        return math.exp(min(math.log(more) + slope * (score - low), 0.0))


def take_off_crowd(similarities: Scores, crowd_size: int, crowd_weight: float) -> Scores:
    """From each score (n, subjects) ``crowd_weight`` of the mean of the ``crowd_size`` highest others in its row."""
    size = min(crowd_size, int(np.isfinite(similarities).sum(axis=1).min(initial=1 << 31)) - 1)
    if size <= 0 or not len(similarities):
        return similarities
    top = -np.partition(-similarities, size, axis=1)[:, : size + 1]
    top.sort(axis=1)
    lowest_of_top, total = top[:, 1:2], top.sum(axis=1, keepdims=True)
    # A score among the highest is not part of its own crowd: the next one after them takes its place.
    without_own = (total - similarities) / size
    crowd = np.where(similarities >= lowest_of_top, without_own, (total - top[:, :1]) / size)
    adjusted: Scores = similarities - crowd_weight * crowd
    return adjusted


def _mixed(a: Sequence[float], b: Sequence[float], weight: float) -> Sequence[float]:
    """Scores that never fall with the rate: far beyond the largest gallery the measured slopes cross."""
    return list(itertools.accumulate((x + (y - x) * weight for x, y in zip(a, b, strict=True)), max))
