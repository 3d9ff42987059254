"""All templates of one model in memory, and the 1:N search over them. Pure numpy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from copy import copy
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from kiosk.biometrics import Candidate, Embedding, ModelId, SubjectId, Template

SEARCH_DEPTH = 11
"""Candidates of a search: the first, and as many again as the threshold's crowd takes in (``kiosk.thresholds``)."""

# Rows of a similarity matrix at a time: 20 MB with 10,000 subjects.
_BLOCK = 512


class Gallery:
    """Immutable; a change of the store builds a new one.

    A subject's templates are fused to their normalised mean: with three photos a subject that is both more accurate
    than any single one and cheaper to search (docs/recognition.md).

    ``score_shift``: by how much strangers score higher here than where the model's error rates were measured
    (``kiosk calibrate``); added to automatic thresholds.

    ``lapsed``: subjects who are left out because their consent has ended.

    Templates of another model are counted in ``foreign`` and never compared.
    """

    def __init__(
        self,
        model_id: ModelId,
        templates: Iterable[Template],
        *,
        score_shift: float = 0.0,
        lapsed: frozenset[SubjectId] = frozenset(),
    ) -> None:
        by_subject: dict[SubjectId, list[Embedding]] = {}
        self.model_id = model_id
        self.score_shift = score_shift
        self.lapsed = lapsed
        self.foreign = 0
        for template in templates:
            if template.model_id != model_id:
                self.foreign += 1
                continue
            by_subject.setdefault(template.subject_id, []).append(template.embedding)
        self.subjects = list(by_subject)
        self.template_counts = [len(rows) for rows in by_subject.values()]
        """How many templates each of ``subjects`` has."""
        self.matrix: NDArray[np.float32] = np.array([fuse(rows) for rows in by_subject.values()], np.float32)
        """Fused templates, (subjects, embedding_dim), in the order of ``subjects``."""

    def __len__(self) -> int:
        """Number of subjects."""
        return len(self.subjects)

    @property
    def subjects_by_templates(self) -> Counter[int]:
        """How many subjects have so many templates."""
        return Counter(self.template_counts)

    @property
    def template_count(self) -> int:
        return sum(self.template_counts)

    def restricted(self, subjects: Collection[SubjectId], *, lapsed: frozenset[SubjectId]) -> Gallery:
        """The same without whoever is not among ``subjects``, or in ``lapsed``."""
        kept = [i for i, subject in enumerate(self.subjects) if subject in subjects and subject not in lapsed]
        rest = copy(self)
        rest.subjects = [self.subjects[i] for i in kept]
        rest.matrix = self.matrix[kept]
        rest.template_counts = [self.template_counts[i] for i in kept]
        rest.lapsed = lapsed
        return rest

    def updated(self, subject_id: SubjectId, embeddings: list[Embedding]) -> Gallery:
        """The same with these as the subject's templates; somebody new comes last, as in the store."""
        changed, row = copy(self), fuse(embeddings)
        if subject_id in self.subjects:
            at = self.subjects.index(subject_id)
            changed.template_counts = [*self.template_counts]
            changed.template_counts[at] = len(embeddings)
            changed.matrix = self.matrix.copy()
            changed.matrix[at] = row
        else:
            changed.subjects = [*self.subjects, subject_id]
            changed.template_counts = [*self.template_counts, len(embeddings)]
            changed.matrix = np.vstack([self.matrix, row] if len(self) else [row])
        return changed

    def search(self, probe: Embedding, k: int = SEARCH_DEPTH) -> tuple[Candidate, ...]:
        """The ``k`` most similar subjects, highest score first."""
        if not self.subjects:
            return ()
        scores = self.matrix @ probe
        k = min(k, len(scores))
        best = np.argpartition(-scores, k - 1)[:k]
        best = best[np.argsort(-scores[best], kind="stable")]
        return tuple(Candidate(self.subjects[i], float(scores[i])) for i in best)

    def search_many(
        self, probes: NDArray[np.float32], own: NDArray[np.intp], k: int = SEARCH_DEPTH
    ) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
        """Each probe of (n, embedding_dim) among all subjects but the one in column ``own[i]`` (-1: among all).

        Returns:
            Scores (n, k), highest first, and the subjects' columns (n, k); fewer where there are fewer subjects. A
            score of -inf is the own subject's.
        """
        depth = min(k, len(self))
        scores, columns = np.empty((len(probes), depth), np.float32), np.empty((len(probes), depth), np.intp)
        for start in range(0, len(probes) if depth else 0, _BLOCK):
            part = slice(start, start + _BLOCK)
            similar = probes[part] @ self.matrix.T
            mine = np.flatnonzero(own[part] >= 0)
            similar[mine, own[part][mine]] = -np.inf
            best = np.argpartition(similar, -depth, axis=1)[:, -depth:]
            found = np.take_along_axis(similar, best, axis=1)
            order = np.argsort(-found, axis=1, kind="stable")
            scores[part] = np.take_along_axis(found, order, axis=1)
            columns[part] = np.take_along_axis(best, order, axis=1)
        return scores, columns

    def score(self, subject_id: SubjectId, probe: Embedding) -> float:
        """The score of one subject."""
        return float(self.matrix[self.subjects.index(subject_id)] @ probe)


def fuse(embeddings: list[Embedding], weights: list[float] | None = None) -> Embedding:
    """The L2-normalised weighted mean of embeddings of shape (embedding_dim,)."""
    mean = np.average(np.stack(embeddings), axis=0, weights=weights)
    fused: Embedding = (mean / np.linalg.norm(mean)).astype(np.float32)
    return fused


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whom a model can recognize, given the templates there are."""

    model_id: ModelId
    recognized: tuple[SubjectId, ...]
    """Have templates of this model."""
    unrecognized: tuple[SubjectId, ...]
    """Have templates, but of other models only: strangers until they are enrolled again."""
    stranded: Mapping[ModelId, int]
    """How many templates of each other model the unrecognized have."""
    kept: Mapping[ModelId, int]
    """How many templates of each other model the recognized have besides: for a way back."""

    @classmethod
    def of(cls, model_id: ModelId, templates: Mapping[SubjectId, Mapping[ModelId, int]]) -> Self:
        """``templates``: how many each subject has of each model."""
        stranded: Counter[ModelId] = Counter()
        kept: Counter[ModelId] = Counter()
        for counts in templates.values():
            foreign = {model: count for model, count in counts.items() if model != model_id}
            (kept if model_id in counts else stranded).update(foreign)
        return cls(
            model_id,
            tuple(subject for subject, counts in templates.items() if model_id in counts),
            tuple(subject for subject, counts in templates.items() if counts and model_id not in counts),
            stranded,
            kept,
        )
