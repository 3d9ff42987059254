"""What is wrong with a gallery, whom it concerns, and what to type about it.

Every limit is one that was measured elsewhere, none is of this module's making:

- too poor a photo: the enrollment gate (``kiosk.quality.ENROLLMENT_GATE``; docs/recognition.md, "Quality")
- a template that is not its subject's: the score that enrollment asks of photos of one person, FMR 1e-2
  (``kiosk.pipeline.Yardstick.same_face_score``)
- nearly the same picture: ``kiosk.pipeline.Yardstick.same_picture_score``, 18 % of the distance that divides people
- too few: three different photos miss less than half of the searches that one misses, at FPIR 0.1 % with 50 to 200
  enrolled and both networks (docs/recognition.md, "One against many")
- too alike: the rule that the kiosk itself decides by, crowd's share and all (``kiosk.thresholds``)

Pure: records in, records out, one matrix product in blocks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from kiosk.advice import advise
from kiosk.biometrics import ModelId, Quality, Reason, StoredTemplate, SubjectId
from kiosk.decision import DecisionRule
from kiosk.gallery import SEARCH_DEPTH, Gallery

ENOUGH_TEMPLATES = 3
"""Different photos of a person."""
CONSENT_DAYS = 30
"""Before its end a consent is told of, as `kiosk check` does."""

# Pictures of one subject that are compared at a time.
_BLOCK = 512

Figures = Mapping[str, float | int | str | None]
Scores = NDArray[np.float32]
Indices = NDArray[np.intp]


class Issue(StrEnum):
    """What is wrong, the most urgent first: until ``ALIKE`` somebody is not recognized, or may be taken for another."""

    UNREADABLE = "unreadable"
    """A template is damaged or cannot be decrypted, and is not compared."""
    OTHER_MODEL = "other_model"
    """All templates are of a model that is not in use."""
    CONSENT_ENDED = "consent_ended"
    MISFIT = "misfit"
    """A template does not look like its subject's others."""
    ALIKE = "alike"
    """One subject would be taken for the other."""
    CONSENT_ENDS = "consent_ends"
    NO_CONSENT = "no_consent"
    WEAK = "weak"
    """A template of a photo that would not be enrolled now."""
    SAME_PICTURE = "same_picture"
    """Templates that show next to nothing different."""
    FEW_TEMPLATES = "few_templates"
    UNSEEN = "unseen"
    """Not recognized for long, while others were."""
    OLD_TEMPLATES = "old_templates"
    """Templates of another model beside those that count."""

    @property
    def urgent(self) -> bool:
        return self in _URGENT


_URGENT = frozenset({Issue.UNREADABLE, Issue.OTHER_MODEL, Issue.CONSENT_ENDED, Issue.MISFIT, Issue.ALIKE})


@dataclass(frozen=True, slots=True)
class Step:
    """Something to do: ``command``, and ``when`` that is the right thing (empty: always)."""

    command: str
    when: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong with one subject's templates or consent.

    ``templates``: the numbers of those it is about (`kiosk subjects show`). ``other_id``: whom it concerns as well.
    ``figures``: what was measured, and the limit it was held against.
    """

    issue: Issue
    subject_id: SubjectId
    message: str
    steps: tuple[Step, ...]
    templates: tuple[int, ...] = ()
    other_id: SubjectId | None = None
    figures: Figures = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Limits:
    """What templates are held against.

    ``rule``: of a gallery with one subject less than this one, for each is searched for among the others. ``judge``:
    names the first limit that a photo's measures break.
    """

    model_id: ModelId
    same_face_score: float
    same_picture_score: float
    rule: DecisionRule
    judge: Callable[[Quality], Reason | None]


@dataclass(frozen=True, slots=True)
class Person:
    """What the store knows of a subject beside the embeddings.

    ``models``: how many templates of each. ``unreadable``: numbers of those that are damaged or cannot be decrypted.
    ``unrecognized_days``: on how many days, at least, others were seen and this face was not recognized; None: not
    known. ``unseen_days``: the same, but any event of the subject counts. ``last_at``: of the last one (UTC).
    """

    subject_id: SubjectId
    models: Mapping[ModelId, int]
    unreadable: tuple[int, ...] = ()
    has_consent: bool = False
    consent_until: str | None = None
    unrecognized_days: int | None = None
    unseen_days: int = 0
    last_at: str | None = None


def inspect_templates(templates: Sequence[StoredTemplate], limits: Limits) -> list[Finding]:
    """What is wrong with the templates of the model in use; other models' are passed over.

    Leave out who is not searched for anyway. Most urgent first.
    """
    rows = [template for template in templates if template.model_id == limits.model_id]
    if not rows:
        return []
    gallery = Gallery(limits.model_id, rows)
    column = {subject: index for index, subject in enumerate(gallery.subjects)}
    matter = _Matter(
        rows, gallery, np.stack([row.embedding for row in rows]), np.array([column[row.subject_id] for row in rows])
    )
    nearest = matter.nearest()
    groups = matter.pictures(limits.same_picture_score)
    found = [
        *_misfits(matter, nearest, limits),
        *_alike(matter, nearest, limits.rule),
        *_weak(rows, limits.judge),
        *_same_pictures(groups, limits.same_picture_score),
        *_few(gallery, groups),
    ]
    return in_order(found)


def inspect_people(
    people: Sequence[Person], model_id: ModelId, *, today: date, trusted: bool, days: int, need_consent: bool
) -> list[Finding]:
    """What is wrong beside the embeddings. Most urgent first.

    ``trusted``: the clock that told ``today`` follows a time server; ``days``: whom nobody has recognized for so long.
    """
    found = [
        finding
        for person in people
        for finding in (
            *_unreadable(person),
            *_of_other_models(person, model_id),
            *_consent(person, today, trusted=trusted, needed=need_consent),
            *_unseen(person, model_id, days),
        )
    ]
    return in_order(found)


def in_order(findings: Sequence[Finding]) -> list[Finding]:
    """Most urgent first, then by subject."""
    rank = {issue: number for number, issue in enumerate(Issue)}
    return sorted(findings, key=lambda finding: (rank[finding.issue], finding.subject_id, finding.templates))


# --- embeddings


@dataclass(frozen=True, slots=True)
class _Nearest:
    """For each template the other subjects most like it, best first: scores (n, k) and their columns (n, k)."""

    scores: Scores
    columns: Indices


@dataclass(frozen=True, slots=True)
class _Group:
    """Templates of one subject that show one picture; ``score`` is the lowest that joined one to the others."""

    subject_id: SubjectId
    templates: tuple[int, ...]
    score: float


@dataclass(frozen=True, slots=True)
class _Matter:
    """Templates, their embeddings (n, embedding_dim) and which of the gallery's subjects each belongs to (n,)."""

    rows: Sequence[StoredTemplate]
    gallery: Gallery
    faces: Scores
    column: Indices

    def nearest(self) -> _Nearest:
        """Each template searched for among all other subjects, as a stranger's would be."""
        return _Nearest(*self.gallery.search_many(self.faces, self.column, min(SEARCH_DEPTH, len(self.gallery) - 1)))

    def own_scores(self) -> Scores:
        """Each template's score with the others of its subject, fused; NaN where there is no other: (n,)."""
        sums = np.zeros_like(self.gallery.matrix)
        np.add.at(sums, self.column, self.faces)
        rest = sums[self.column] - self.faces
        alone = np.array(self.gallery.template_counts)[self.column] < 2
        norms = np.linalg.norm(rest, axis=1)
        norms[alone] = np.nan
        own: Scores = np.einsum("nd,nd->n", self.faces, rest) / norms
        return own

    def pictures(self, same_picture_score: float) -> list[_Group]:
        """The templates of each subject, those that show nearly the same picture together."""
        members: defaultdict[int, list[int]] = defaultdict(list)
        for number, column in enumerate(self.column.tolist()):
            members[column].append(number)
        return [group for column in sorted(members) for group in self._group(members[column], same_picture_score)]

    def _group(self, members: Sequence[int], same_picture_score: float) -> Iterator[_Group]:
        """Each picture joins the group of the one before it that is most like it, as enrollment's note does."""
        faces = self.faces[list(members)]
        groups: list[tuple[list[int], float]] = [([0], 1.0)]
        group_of = [0]
        block = self.faces[:0]
        for number in range(1, len(members)):
            if number % _BLOCK == 1:
                block = faces[number : number + _BLOCK] @ faces[: number + _BLOCK].T
            scores = block[(number - 1) % _BLOCK, :number]
            best = int(scores.argmax())
            if scores[best] >= same_picture_score:
                numbers, lowest = groups[group_of[best]]
                groups[group_of[best]] = ([*numbers, number], min(lowest, float(scores[best])))
                group_of.append(group_of[best])
            else:
                group_of.append(len(groups))
                groups.append(([number], 1.0))
        for numbers, lowest in groups:
            yield _Group(
                self.rows[members[0]].subject_id, tuple(_id(self.rows[members[number]]) for number in numbers), lowest
            )


def _misfits(matter: _Matter, nearest: _Nearest, limits: Limits) -> Iterator[Finding]:
    own = matter.own_scores()
    with np.errstate(invalid="ignore"):
        suspects = np.flatnonzero(own < limits.same_face_score).tolist()
    for number in suspects:
        row, score = matter.rows[number], float(own[number])
        number_text, other = _id(row), None
        told = (
            f"template {number_text} scores {score:.2f} with the subject's others, {limits.same_face_score:.2f} needed"
        )
        figures: dict[str, float | int | str | None] = {
            "score": _rounded(score),
            "needed": _rounded(limits.same_face_score),
        }
        if nearest.scores.shape[1] and nearest.scores[number, 0] > score:
            other = matter.gallery.subjects[int(nearest.columns[number, 0])]
            figures["other_score"] = _rounded(nearest.scores[number, 0])
            told += f", and {figures['other_score']:.2f} with {other}"
        steps = (Step(f"kiosk subjects remove {row.subject_id} --template {number_text}", "its photo shows another"),)
        yield Finding(
            Issue.MISFIT, row.subject_id, told, (*steps, _more(row.subject_id)), (number_text,), other, figures
        )


def _alike(matter: _Matter, nearest: _Nearest, rule: DecisionRule) -> Iterator[Finding]:
    """Each pair once, with the template that comes nearest to being taken for the other."""
    pairs: dict[tuple[SubjectId, SubjectId], tuple[float, float, StoredTemplate]] = {}
    for number, rank, threshold in _reaching(nearest.scores, len(matter.gallery) - 1, rule):
        row = matter.rows[number]
        other = matter.gallery.subjects[int(nearest.columns[number, rank])]
        pair = (min(row.subject_id, other), max(row.subject_id, other))
        score = float(nearest.scores[number, rank])
        if pair not in pairs or score - threshold > pairs[pair][0] - pairs[pair][1]:
            pairs[pair] = (score, threshold, row)
    for (one, other), (score, threshold, row) in pairs.items():
        told = (
            f"looks like {other}: template {_id(row)} of {row.subject_id} scores {score:.3f} with "
            f"{other if row.subject_id == one else one}, and {threshold:.3f} is enough to be taken for one another"
        )
        steps = (
            Step(f"kiosk subjects remove {other}", "they are one person"),
            Step(f"kiosk enroll {one} PHOTO...", "they are two: better photos of both, taken at the door"),
            Step(f"kiosk subjects code {one}", "that does not help (twins): a PIN or badge"),
        )
        figures = {"score": _rounded(score), "threshold": _rounded(threshold)}
        yield Finding(Issue.ALIKE, one, told, steps, (_id(row),), other, figures)


def _reaching(scores: Scores, others: int, rule: DecisionRule) -> Iterator[tuple[int, int, float]]:
    """Which template would be taken for which of its nearest, and the threshold it reaches (crowd's share added).

    A second subject is judged as if the one before it were not there, and only where that one would be named, too: of
    three ids of one person each is in the others' crowd. ``others``: how many subjects there are to be alike.
    """
    named = np.ones(len(scores), np.bool_)
    for rank in range(scores.shape[1]):
        crowd = scores[:, rank + 1 : rank + 1 + rule.crowd_size]
        whole = crowd.shape[1] == rule.crowd_size or scores.shape[1] == others
        if not whole or (rank and rule.crowd_size and not crowd.shape[1]):
            # What a threshold asks of a score depends on its crowd.
            return
        share = crowd.mean(axis=1) * rule.crowd_weight if crowd.shape[1] else np.zeros(len(scores), np.float32)
        thresholds = rule.threshold + share
        named &= scores[:, rank] >= thresholds
        for number in np.flatnonzero(named).tolist():
            yield number, rank, float(thresholds[number])


def _weak(rows: Sequence[StoredTemplate], judge: Callable[[Quality], Reason | None]) -> Iterator[Finding]:
    for row in rows:
        failure = None if row.quality is None else judge(row.quality)
        if row.quality is None or failure is None:
            continue
        told = f"template {_id(row)}: {advise(replace(row.quality, failure=failure))}"
        drop = Step(f"kiosk subjects remove {row.subject_id} --template {_id(row)}", "there are better ones")
        yield Finding(
            Issue.WEAK, row.subject_id, told, (_more(row.subject_id), drop), (_id(row),), figures=_measures(row.quality)
        )


def _same_pictures(groups: Sequence[_Group], limit: float) -> Iterator[Finding]:
    for group in groups:
        if len(group.templates) < 2:
            continue
        numbers = [str(number) for number in group.templates]
        told = (
            f"templates {', '.join(numbers[:-1])} and {numbers[-1]} are nearly the same picture (score "
            f"{group.score:.3f}, from {limit:.3f} on) and count as one"
        )
        step = Step(f"kiosk enroll {group.subject_id} PHOTO...", "one from another angle, or of another day")
        figures = {"score": _rounded(group.score), "limit": _rounded(limit)}
        yield Finding(Issue.SAME_PICTURE, group.subject_id, told, (step,), group.templates, figures=figures)


def _few(gallery: Gallery, groups: Sequence[_Group]) -> Iterator[Finding]:
    pictures: defaultdict[SubjectId, int] = defaultdict(int)
    for group in groups:
        pictures[group.subject_id] += 1
    for subject, templates in zip(gallery.subjects, gallery.template_counts, strict=True):
        different = pictures[subject]
        if different >= ENOUGH_TEMPLATES:
            continue
        noun = "template" if templates == 1 else "templates"
        only = "" if different == templates else f", which show {different} different picture{'s' * (different > 1)}"
        told = f"{templates} {noun}{only}; with {ENOUGH_TEMPLATES} different photos less than half as many are missed"
        figures = {"templates": templates, "different": different, "enough": ENOUGH_TEMPLATES}
        yield Finding(Issue.FEW_TEMPLATES, subject, told, (_more(subject),), figures=figures)


# --- everything else


def _unreadable(person: Person) -> Iterator[Finding]:
    if not person.unreadable:
        return
    many = len(person.unreadable)
    told = f"{many} template{'s' * (many > 1)} cannot be decrypted, or are damaged, and are not compared"
    steps = (
        Step("kiosk check", "it says which: put the right key file back, or restart a kiosk whose store is damaged"),
        Step(
            f"kiosk subjects remove {person.subject_id} --template {person.unreadable[0]}",
            "nothing helps: then enroll again",
        ),
    )
    yield Finding(Issue.UNREADABLE, person.subject_id, told, steps, person.unreadable, figures={"templates": many})


def _of_other_models(person: Person, model_id: ModelId) -> Iterator[Finding]:
    others = {model: number for model, number in person.models.items() if model != model_id}
    if not others:
        return
    told = ", ".join(f"{number} of {model}" for model, number in sorted(others.items()))
    figures: Figures = {"templates": sum(others.values()), "models": ", ".join(sorted(others))}
    if model_id in person.models:
        step = Step("kiosk subjects reenroll --drop-old", "there is no going back to the old model")
        yield Finding(Issue.OLD_TEMPLATES, person.subject_id, f"{told}, kept for a way back", (step,), figures=figures)
        return
    steps = (
        Step("kiosk subjects reenroll DIR", "the photos are there: all at once"),
        Step(f"kiosk enroll {person.subject_id} PHOTO...", "only this one"),
    )
    yield Finding(
        Issue.OTHER_MODEL,
        person.subject_id,
        f"not recognized: the templates are {told}, and {model_id} is in use",
        steps,
        figures=figures,
    )


def _consent(person: Person, today: date, *, trusted: bool, needed: bool) -> Iterator[Finding]:
    if not person.models:
        # Nothing biometric is stored, so none is needed.
        return
    until = person.consent_until
    renew = Step(f"kiosk subjects consent {person.subject_id} REFERENCE --until YYYY-MM-DD", "the person agrees anew")
    erase = Step(f"kiosk subjects remove {person.subject_id}", "or not")
    figures: Figures = {"until": until}
    if until is None:
        if needed and not person.has_consent:
            told = "no consent is on record, and privacy.require_consent asks for one"
            yield Finding(Issue.NO_CONSENT, person.subject_id, told, (renew, erase))
        return
    if until < today.isoformat():
        effect = "not recognized" if trusted else "recognized only as long as the clock follows no time server"
        told = f"{effect}: the consent ended on {until}"
        yield Finding(Issue.CONSENT_ENDED, person.subject_id, told, (renew, erase), figures=figures)
    elif until <= (today + timedelta(days=CONSENT_DAYS)).isoformat():
        told = f"the consent ends on {until}; from the next day on the person is not recognized"
        yield Finding(Issue.CONSENT_ENDS, person.subject_id, told, (renew,), figures=figures)


def _unseen(person: Person, model_id: ModelId, days: int) -> Iterator[Finding]:
    if model_id not in person.models or person.unrecognized_days is None or person.unrecognized_days < days:
        return
    last = "never" if person.last_at is None else f"last on {person.last_at[:10]}"
    by_code = person.unseen_days < person.unrecognized_days and person.last_at is not None
    ways = f"; came otherwise, {last}" if by_code else f"; came {last}"
    told = f"the face was not recognized on {person.unrecognized_days} days on which others were seen{ways}"
    figures: Figures = {
        "unrecognized_days": person.unrecognized_days,
        "unseen_days": person.unseen_days,
        "days": days,
        "last_at": person.last_at,
    }
    more = Step(f"kiosk enroll {person.subject_id} PHOTO...", "the person comes and is not recognized")
    steps = (more, Step(f"kiosk subjects remove {person.subject_id}", "the person has left"))
    yield Finding(Issue.UNSEEN, person.subject_id, told, steps, figures=figures)


def _more(subject_id: SubjectId) -> Step:
    return Step(f"kiosk enroll {subject_id} PHOTO...", "more photos, different ones, in good light")


def _measures(quality: Quality) -> Figures:
    return {
        "eye_distance_px": _rounded(quality.eye_distance_px),
        "sharpness": _rounded(quality.sharpness),
        "contrast": _rounded(quality.contrast),
        "clipped": _rounded(quality.clipped),
        "yaw": _rounded(quality.yaw),
        "pitch": _rounded(quality.pitch),
        "detector_score": _rounded(quality.detector_score),
    }


def _rounded(value: float | np.floating | None) -> float | None:
    return None if value is None else round(float(value), 4)


def _id(template: StoredTemplate) -> int:
    if template.id is None:
        raise ValueError("a template that is not stored")
    return template.id
