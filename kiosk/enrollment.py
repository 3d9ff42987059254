"""Enrollment: photos of one person become templates, or one line says which photo is not fit and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kiosk.advice import advise
from kiosk.biometrics import Embedding, Image, Quality, Reason, SubjectId
from kiosk.decision import DecisionRule
from kiosk.errors import InputError
from kiosk.gallery import Gallery, fuse
from kiosk.ports import Detector, Embedder
from kiosk.recognition import QualityCheck

# A face with less than a fifth of the largest one's area is a bystander in the background, not a second person posing.
_RIVAL_AREA = 0.2


class RejectedPhoto(InputError):
    """A photo that is not fit, or is not of whom its id says.

    ``reason`` in one word, ``detail`` as the message without the photo's name; ``other``: who has this face already.
    """

    def __init__(self, source: str, reason: str, detail: str, *, other: SubjectId | None = None) -> None:
        super().__init__(f"{source}: {detail}")
        self.source, self.reason, self.detail, self.other = source, reason, detail, other


@dataclass(frozen=True, slots=True)
class EnrolledPhoto:
    """A photo fit for enrollment: where it came from, what was measured, and its embedding."""

    source: str
    quality: Quality
    embedding: Embedding


def embed_photo(
    source: str, image: Image, *, detector: Detector, embedder: Embedder, gate: QualityCheck
) -> EnrolledPhoto:
    """The one face of a photo.

    Raises:
        RejectedPhoto: no face, several faces, or a face below the quality limits.
    """
    faces = detector.detect(image)
    if not faces:
        raise RejectedPhoto(source, Reason.NO_FACE, "no face found; use a photo that shows the face from the front")
    face = max(faces, key=lambda face: face.box.area)
    rivals = [other for other in faces if other.box.area >= face.box.area * _RIVAL_AREA]
    if len(rivals) > 1:
        detail = f"{len(rivals)} faces found where one is needed; crop the photo to one person"
        raise RejectedPhoto(source, "several_faces", detail)
    quality = gate.assess(image, face)
    if quality.failure is not None:
        raise RejectedPhoto(source, quality.failure, advise(quality))
    return EnrolledPhoto(source, quality, embedder.embed(image, face))


def check_same_person(photos: Sequence[EnrolledPhoto], known: Sequence[Embedding], same_person_score: float) -> None:
    """All photos, and the templates the subject already has, must agree.

    Raises:
        RejectedPhoto: naming the photo that differs most from the others.
    """
    if len(photos) + len(known) < 2:
        return
    scores = [
        (float(photo.embedding @ fuse([*(p.embedding for p in photos if p is not photo), *known])), photo)
        for photo in photos
    ]
    worst, photo = min(scores, key=lambda pair: pair[0])
    if worst < same_person_score:
        raise RejectedPhoto(
            photo.source,
            "photos_differ",
            "does not look like the same person as the other photos "
            f"(score {worst:.2f}, {same_person_score:.2f} needed); leave it out, or use --force",
        )


def find_near_copies(photos: Sequence[EnrolledPhoto], same_picture_score: float) -> list[str]:
    """Notes on photos that show next to nothing new, as those of one burst do: one a group of photos that are alike.

    Three different photos make a far better template than three of one moment.
    """
    groups: list[list[int]] = []
    for number, photo in enumerate(photos):
        score_of = (max(float(photo.embedding @ photos[n].embedding) for n in group) for group in groups)
        alike = next(
            (group for group, score in zip(groups, score_of, strict=True) if score >= same_picture_score), None
        )
        if alike is None:
            groups.append([number])
        else:
            alike.append(number)
    return [_describe_copies(group, [photos[n].source for n in group]) for group in groups if len(group) > 1]


def _describe_copies(group: Sequence[int], sources: Sequence[str]) -> str:
    numbers = [str(number + 1) for number in group]
    return (
        f"photos {', '.join(numbers[:-1])} and {numbers[-1]} are nearly the same picture ({', '.join(sources)}); "
        "add one from another angle, or of another day"
    )


def check_not_enrolled(
    subject_id: SubjectId, photos: Sequence[EnrolledPhoto], others: Gallery, rule: DecisionRule
) -> None:
    """The same face must not be enrolled under two ids. ``others``: everybody but the subject.

    Raises:
        RejectedPhoto: naming the other id.
    """
    decision = rule.decide(others.search(fuse([photo.embedding for photo in photos])))
    if decision.reason in {Reason.MATCH, Reason.AMBIGUOUS}:
        other = decision.candidates[0].subject_id
        raise RejectedPhoto(
            photos[0].source,
            "duplicate_face",
            f"this face is already enrolled as {other} (score {decision.score:.2f}); use that id, or --force to enroll "
            f"it as {subject_id} too",
            other=other,
        )
