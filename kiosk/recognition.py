"""The loop's heart: one frame in, a report for every face in it out. Only this module knows the order of the steps."""

from __future__ import annotations

from typing import Protocol

from kiosk.biometrics import Candidate, Decision, Embedding, Face, FaceReport, Frame, Image, Quality, Verdict
from kiosk.decision import DecisionRule
from kiosk.gallery import Gallery
from kiosk.ports import Detector, Embedder
from kiosk.tracks import Sample, Track, Tracker

# An identified person keeps standing there: look again now and then, in case another steps into the same place.
_CONFIRM_EVERY_S = 0.5


class QualityCheck(Protocol):
    def assess(self, image: Image, face: Face) -> Quality:
        """Measure a face and name the first limit it breaks."""


class Recognizer:
    """Detector, quality gate, embedder and gallery search, with evidence gathered over the frames of a track.

    ``same_face_score``: below it an embedding in a track's place belongs to somebody else.
    """

    def __init__(
        self,
        *,
        detector: Detector,
        embedder: Embedder,
        gate: QualityCheck,
        gallery: Gallery,
        rule: DecisionRule,
        same_face_score: float,
        frames: int = 3,
        window_s: float = 2.0,
    ) -> None:
        self._detector = detector
        self._embedder = embedder
        self._gate = gate
        self._gallery = gallery
        self._rule = rule
        self._same_face_score = same_face_score
        self._frames = frames
        self._window_s = window_s
        self._tracker = Tracker()

    def use(self, gallery: Gallery, rule: DecisionRule) -> None:
        """Search this gallery from the next frame on, by this rule."""
        self._gallery = gallery
        self._rule = rule

    def analyse(self, image: Image) -> list[FaceReport]:
        """Every face of a single photo, each decided on its own."""
        return [FaceReport(face, self._decide_alone(image, face), final=True) for face in self._detector.detect(image)]

    def process(self, frame: Frame) -> list[FaceReport]:
        """Every face of a camera frame, with the decision its track has reached so far."""
        faces = self._detector.detect(frame.image)
        tracks = self._tracker.follow(faces, frame.captured_s)
        return [self._advance(frame, face, track) for face, track in zip(faces, tracks, strict=True)]

    def _decide_alone(self, image: Image, face: Face) -> Decision:
        quality = self._gate.assess(image, face)
        if quality.failure is not None:
            return self._rule.reject(quality.failure, quality)
        candidates = self._gallery.search(self._embedder.embed(image, face))
        return self._rule.decide(candidates, quality=quality)

    def _advance(self, frame: Frame, face: Face, track: Track) -> FaceReport:
        quality = self._gate.assess(frame.image, face)
        if quality.failure is not None:
            return self._report_rejected(face, track, self._rule.reject(quality.failure, quality))
        if Verdict.IDENTIFIED in track.told and frame.captured_s - track.embedded_s < _CONFIRM_EVERY_S:
            return FaceReport(face, self._decide(track), track.id)
        # A mirrored view now and then gives the fused probe what averaging both of each frame would, at half the cost.
        embedding = self._embedder.embed_frame(frame.image, face, mirrored=track.views % 2 == 1)
        track.views += 1
        track = self._settle(face, track, embedding, frame.captured_s)
        track.add(Sample(frame.captured_s, embedding, quality), self._window_s)
        return self._report(face, track, self._decide(track))

    def _settle(self, face: Face, track: Track, embedding: Embedding, captured_s: float) -> Track:
        """The track this embedding really belongs to: overlap proposes, the face disposes."""
        if not track.resembles(embedding, self._same_face_score):
            track = self._tracker.replace(track, face, captured_s)
        if not track.samples:
            track = self._tracker.adopt(embedding, track, self._same_face_score)
        return track

    def _decide(self, track: Track) -> Decision:
        candidates = self._gallery.search(track.probe())
        return self._rule.decide(
            candidates,
            frames=len(track.samples),
            quality=track.samples[-1].quality,
            frame_scores=self._frame_scores(track, candidates),
        )

    def _frame_scores(self, track: Track, candidates: tuple[Candidate, ...]) -> tuple[float, ...]:
        if not candidates:
            return ()
        first = candidates[0].subject_id
        return tuple(self._gallery.score(first, sample.embedding) for sample in track.samples)

    def _report(self, face: Face, track: Track, decision: Decision) -> FaceReport:
        """Final once a track: as soon as enough frames identify, or when the window has passed without."""
        if decision.frames < self._frames:
            return FaceReport(face, decision, track.id)
        if decision.verdict is Verdict.IDENTIFIED:
            # The subject is part of the outcome: should the evidence later turn to another, that is news.
            first = track.tell_once(f"{decision.subject_id}")
            track.told.add(Verdict.IDENTIFIED)
            return FaceReport(face, decision, track.id, final=first)
        waited_s = track.seen_s - track.started_s
        final = waited_s >= self._window_s and track.tell_once(decision.reason)
        return FaceReport(face, decision, track.id, final=final)

    def _report_rejected(self, face: Face, track: Track, decision: Decision) -> FaceReport:
        """A face never good enough is told once, after the window; one bad frame among good ones never."""
        waited_s = track.seen_s - track.started_s
        final = not track.samples and waited_s >= self._window_s and track.tell_once(decision.reason)
        return FaceReport(face, decision, track.id, final=final)
