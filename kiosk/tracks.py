"""Tracks: the faces of successive frames that belong to one person, and the evidence gathered on the way."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from kiosk.biometrics import Box, Embedding, Face, Quality, Reason
from kiosk.gallery import fuse

# Overlap of one person's boxes in successive frames: at 15 frames/s and walking speed above 0.5; half a second apart
# still above 0.3.
_SAME_PLACE_IOU = 0.3
# A person hidden for longer than this is a new visit to the camera.
_FORGET_AFTER_S = 1.0


@dataclass(frozen=True, slots=True)
class Sample:
    """One embedded frame of a track."""

    captured_s: float
    embedding: Embedding
    quality: Quality


@dataclass(slots=True)
class Track:
    """One person in front of the camera. ``told`` holds the outcomes already reported as final."""

    id: int
    box: Box
    started_s: float
    seen_s: float
    samples: deque[Sample] = field(default_factory=deque)
    told: set[object] = field(default_factory=set)
    embedded_s: float = float("-inf")
    views: int = 0
    """Frames embedded so far."""

    def add(self, sample: Sample, window_s: float) -> None:
        """Add evidence and forget what is older than the window."""
        self.samples.append(sample)
        self.embedded_s = sample.captured_s
        while sample.captured_s - self.samples[0].captured_s > window_s:
            self.samples.popleft()

    def probe(self) -> Embedding:
        """The samples fused, each weighted by its face's size (small faces carry less detail)."""
        return fuse([s.embedding for s in self.samples], [min(s.quality.size_px, 160.0) for s in self.samples])

    def resembles(self, embedding: Embedding, same_face_score: float) -> bool:
        """Whether an embedding can be of this person; true while nothing is known."""
        return not self.samples or float(self.probe() @ embedding) >= same_face_score

    def tell_once(self, outcome: Reason | str) -> bool:
        """True the first time an outcome is reported for this track."""
        if outcome in self.told:
            return False
        self.told.add(outcome)
        return True


class Tracker:
    """Follows faces by overlap. Not for crowds: at a door a few faces matter, and each is embedded anyway."""

    def __init__(self) -> None:
        self._tracks: list[Track] = []
        self._next_id = 1

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
            track = Track(self._next_id, face.box, captured_s, captured_s)
            self._next_id += 1
            self._tracks.append(track)
        track.box, track.seen_s = face.box, captured_s
        return track
