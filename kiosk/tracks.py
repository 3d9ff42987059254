"""Tracks: the faces of successive frames that belong to one person, and the evidence gathered on the way."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from kiosk.biometrics import Box, Embedding, Face, PadScore, Quality, Reason
from kiosk.gallery import fuse

# Overlap of one person's boxes in successive frames: at 15 frames/s and walking speed above 0.5; half a second apart
# still above 0.3.
_SAME_PLACE_IOU = 0.3
# A person hidden for longer than this is a new visit to the camera.
_FORGET_AFTER_S = 1.0
# Evidence a track keeps: two seconds of every frame of a usual camera, a quarter of a minute of later, rarer looks. A
# mean over so much moves little: whoever is unknown stays so, however long they stand there (benchmarks/visits.py).
_SAMPLES_KEPT = 30


@dataclass(frozen=True, slots=True)
class Sample:
    """One embedded frame of a track."""

    captured_s: float
    embedding: Embedding
    quality: Quality
    pad: PadScore | None = None
    """This frame's own; None where nothing is checked."""


@dataclass(slots=True)
class Track:
    """One person in front of the camera.

    ``told`` holds the outcomes already reported as final; ``settled``: one of them was a decision on evidence.
    ``evidence_s`` is the time of the first sample, ``embedded_s`` that of the last.
    """

    id: int
    box: Box
    started_s: float
    seen_s: float
    samples: deque[Sample] = field(default_factory=deque)
    told: set[object] = field(default_factory=set)
    settled: bool = False
    evidence_s: float = float("inf")
    embedded_s: float = float("-inf")
    views: int = 0
    """Frames embedded so far."""

    def add(self, sample: Sample) -> None:
        """Add evidence; the oldest goes where there is too much."""
        self.samples.append(sample)
        self.evidence_s = min(self.evidence_s, sample.captured_s)
        self.embedded_s = sample.captured_s

    def probe(self) -> Embedding:
        """All samples fused, each with its weight."""
        return fuse_samples(self.samples)

    def pad(self) -> PadScore | None:
        """What most of the samples reach: the median, of two in the middle the lower one. None: nothing is checked.

        Most by number, and most by what they count in the fusion: few large pictures of a face must not hide behind
        many small live views, nor the other way round.
        """
        scores = [sample.pad for sample in self.samples if sample.pad is not None]
        if not scores:
            return None
        weights = [weigh(sample.quality) for sample in self.samples]
        values = [pad.score for pad in scores]
        reached = min(_lower_median(values, [1.0] * len(values)), _lower_median(values, weights))
        return PadScore(reached, scores[-1].threshold)

    def evidence(self, pad: PadScore | None) -> list[Sample]:
        """The samples that say themselves what ``pad`` says of all; all of them where nothing is checked.

        Whoever shows a live face and then a print is not to be identified by the print.
        """
        if pad is None:
            return list(self.samples)
        return [sample for sample in self.samples if sample.pad is not None and sample.pad.passed == pad.passed]

    def resembles(self, embedding: Embedding, same_face_score: float) -> bool:
        """Whether an embedding can be of this person; true while nothing is known."""
        return not self.samples or float(self.probe() @ embedding) >= same_face_score

    def tell_once(self, outcome: Reason | str) -> bool:
        """True the first time an outcome is reported for this track."""
        if outcome in self.told:
            return False
        self.told.add(outcome)
        return True


def fuse_samples(samples: Iterable[Sample]) -> Embedding:
    """The embeddings of samples fused, each with its weight."""
    kept = list(samples)
    return fuse([sample.embedding for sample in kept], [weigh(sample.quality) for sample in kept])


def _lower_median(values: Sequence[float], weights: Sequence[float]) -> float:
    """The highest value that more than half of the weight reaches."""
    half, reached = sum(weights) / 2, 0.0
    for value, weight in sorted(zip(values, weights, strict=True), reverse=True):
        reached += weight
        if reached > half:
            return value
    return min(values)


def weigh(quality: Quality) -> float:
    """What a sample counts in the fusion: the pixels of its face, up to what the networks take in (160 × 160).

    Sharpness and pose add nothing to that, nor does less weight for frames that are near copies of others: measured by
    ``benchmarks/visits.py``.
    """
    return min(quality.size_px, 160.0) ** 2


class Tracker:
    """Follows faces by overlap. Not for crowds: at a door a few faces matter, and each is embedded anyway.

    A track keeps at least ``min_samples``.
    """

    def __init__(self, min_samples: int = 1) -> None:
        self._kept = max(min_samples, _SAMPLES_KEPT)
        self._tracks: list[Track] = []
        self._next_id = 1

    def forget(self) -> None:
        """End every track."""
        self._tracks = []

    def follow(self, faces: list[Face], captured_s: float) -> list[Track]:
        """The track of every face, in the order of the faces; new tracks where none overlaps."""
        self._tracks = [t for t in self._tracks if 0 <= captured_s - t.seen_s <= _FORGET_AFTER_S]
        free = list(self._tracks)
        pairs = sorted(
            ((face.box.iou(track.box), i, track) for i, face in enumerate(faces) for track in free),
            key=lambda pair: -pair[0],
        )
        found: dict[int, Track] = {}
        for iou, i, track in pairs:
            if iou >= _SAME_PLACE_IOU and i not in found and track in free:
                found[i] = track
                free.remove(track)
        return [self._touch(found.get(i), face, captured_s) for i, face in enumerate(faces)]

    def replace(self, track: Track, face: Face, captured_s: float) -> Track:
        """Somebody else stands where the track was: end it and start another."""
        self._tracks.remove(track)
        return self._touch(None, face, captured_s)

    def adopt(self, embedding: Embedding, track: Track, same_face_score: float) -> Track:
        """Give a track without evidence the history of a recently lost one with the same face."""
        for lost in self._tracks:
            if lost is not track and lost.samples and lost.seen_s < track.seen_s:
                if not lost.resembles(embedding, same_face_score):
                    continue
                lost.box, lost.seen_s = track.box, track.seen_s
                self._tracks.remove(track)
                return lost
        return track

    def _touch(self, track: Track | None, face: Face, captured_s: float) -> Track:
        if track is None:
            track = Track(self._next_id, face.box, captured_s, captured_s, deque(maxlen=self._kept))
            self._next_id += 1
            self._tracks.append(track)
        track.box, track.seen_s = face.box, captured_s
        return track
