"""The loop's heart: one frame in, a report for every face in it out. Only this module knows the order of the steps."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

from kiosk.biometrics import (
    Candidate,
    Decision,
    Embedding,
    Face,
    FaceReport,
    Frame,
    FrameEvidence,
    Image,
    PadScore,
    Quality,
    Reason,
    Verdict,
)
from kiosk.decision import DecisionRule
from kiosk.gallery import Gallery
from kiosk.ports import Detector, Embedder, Pad
from kiosk.tracks import Sample, Track, Tracker, fuse_samples, weigh

# A person who was told to be somebody or nobody keeps standing there: look again now and then, in case another steps
# into the same place, or turns a better face. Rarely, because every look is another try for a stranger.
_LOOK_AGAIN_S = 0.5
# Two seconds of a usual camera; a bound on what is stored with every decision, whatever window is configured.
_FRAMES_TOLD = 30


class QualityCheck(Protocol):
    def assess(self, image: Image, face: Face) -> Quality:
        """Measure a face and name the first limit it breaks."""


class Recognizer:
    """Detector, quality gate, embedder and gallery search, with evidence gathered over the frames of a track.

    ``same_face_score``: below it an embedding in a track's place belongs to somebody else. ``frames``: evidence an
    identification needs, unless it is decisive. ``window_s``: evidence without one is told after so long. ``pad``:
    tells people from pictures of them; without it nothing is checked. ``live_score``: what it must reach, its own
    threshold by default.
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
        pad: Pad | None = None,
        live_score: float | None = None,
    ) -> None:
        self._detector = detector
        self._embedder = embedder
        self._gate = gate
        self._gallery = gallery
        self._rule = rule
        self._same_face_score = same_face_score
        self._frames = frames
        self._window_s = window_s
        self.pad = pad
        """What tells pictures from people, where there is something that does."""
        self._live_score = pad.threshold if pad is not None and live_score is None else live_score
        self._tracker = Tracker(min_samples=frames)
        self._frame_size: tuple[int, ...] | None = None

    def use(self, gallery: Gallery, rule: DecisionRule) -> None:
        """Search this gallery from the next frame on, by this rule."""
        self._gallery = gallery
        self._rule = rule

    def analyse(self, image: Image) -> list[FaceReport]:
        """Every face of a single photo, each decided on its own."""
        return [FaceReport(face, self._decide_alone(image, face), final=True) for face in self._detector.detect(image)]

    def process(self, frame: Frame) -> list[FaceReport]:
        """Every face of a camera frame, with the decision its track has reached so far."""
        if frame.image.shape != self._frame_size:
            # Boxes of pictures of another size say nothing about who stands where in this one.
            self._tracker.forget()
            self._frame_size = frame.image.shape
        faces = self._detector.detect(frame.image)
        tracks = self._tracker.follow(faces, frame.captured_s)
        return [self._advance(frame, face, track) for face, track in zip(faces, tracks, strict=True)]

    def _decide_alone(self, image: Image, face: Face) -> Decision:
        quality = self._gate.assess(image, face)
        if quality.failure is not None:
            return self._rule.reject(quality.failure, quality)
        candidates = self._gallery.search(self._embedder.embed(image, face))
        return self._rule.decide(candidates, quality=quality, pad=self._judge_pad(image, face))

    def _advance(self, frame: Frame, face: Face, track: Track) -> FaceReport:
        quality = self._gate.assess(frame.image, face)
        if quality.failure is not None:
            return self._report_rejected(face, track, self._rule.reject(quality.failure, quality))
        if track.settled and frame.captured_s - track.embedded_s < _LOOK_AGAIN_S:
            return FaceReport(face, self._decide(track), track.id)
        # A mirrored view now and then gives the fused probe what averaging both of each frame would, at half the cost.
        embedding = self._embedder.embed_frame(frame.image, face, mirrored=track.views % 2 == 1)
        track.views += 1
        track = self._settle(face, track, embedding, frame.captured_s)
        track.add(Sample(frame.captured_s, embedding, quality, self._judge_pad(frame.image, face)))
        return self._with_frames(self._report(face, track, self._decide(track)), track)

    def _settle(self, face: Face, track: Track, embedding: Embedding, captured_s: float) -> Track:
        """The track this embedding really belongs to: overlap proposes, the face disposes."""
        if not track.resembles(embedding, self._same_face_score):
            track = self._tracker.replace(track, face, captured_s)
        if not track.samples:
            track = self._tracker.adopt(embedding, track, self._same_face_score)
        return track

    def _decide(self, track: Track) -> Decision:
        """What the frames say that are live, or where most are not, what those say."""
        pad = track.pad()
        samples = track.evidence(pad)
        candidates = self._gallery.search(fuse_samples(samples))
        return self._rule.decide(candidates, frames=len(samples), quality=samples[-1].quality, pad=pad)

    def _judge_pad(self, image: Image, face: Face) -> PadScore | None:
        if self.pad is None or self._live_score is None:
            return None
        return PadScore(self.pad.score(image, face), self._live_score)

    def _with_frames(self, report: FaceReport, track: Track) -> FaceReport:
        """A final report with what its frames say one by one; searching for that at every frame would be waste."""
        if not report.final:
            return report
        samples = track.evidence(report.decision.pad)
        total = sum(weigh(sample.quality) for sample in samples)
        frames = tuple(
            FrameEvidence(
                offset_s=sample.captured_s - track.started_s,
                quality=sample.quality,
                weight=weigh(sample.quality) / total,
                candidates=self._frame_candidates(sample.embedding, report.decision.candidates[:2]),
                pad=sample.pad,
            )
            for sample in samples[-_FRAMES_TOLD:]
        )
        return replace(report, decision=replace(report.decision, frame_evidence=frames))

    def _frame_candidates(self, probe: Embedding, fused: tuple[Candidate, ...]) -> tuple[Candidate, ...]:
        """The best two of one frame, and the best two of the fused search where they are others."""
        best = self._gallery.search(probe, k=2)
        missing = {candidate.subject_id for candidate in fused} - {candidate.subject_id for candidate in best}
        others = [Candidate(subject_id, self._gallery.score(subject_id, probe)) for subject_id in missing]
        return (*best, *sorted(others, key=lambda candidate: -candidate.score))

    def _report(self, face: Face, track: Track, decision: Decision) -> FaceReport:
        """Final once a track and outcome.

        As soon as enough frames identify or are a spoof's, or when the window has passed without.
        """
        if not self._rule.has_enough(decision, self._frames):
            return FaceReport(face, decision, track.id)
        identified = decision.verdict is Verdict.IDENTIFIED
        waited = track.embedded_s - track.evidence_s >= self._window_s
        if not identified and not waited and decision.reason is not Reason.SPOOF:
            return FaceReport(face, decision, track.id)
        # A person whose first frames were poor is looked at again at once, until the window has passed.
        track.settled = track.settled or identified or waited
        # The subject is part of the outcome: should the evidence later turn to another, that is news.
        final = track.tell_once(f"{decision.subject_id}" if identified else decision.reason)
        return FaceReport(face, decision, track.id, final=final)

    def _report_rejected(self, face: Face, track: Track, decision: Decision) -> FaceReport:
        """A face never good enough is told once, after the window; one bad frame among good ones never."""
        waited_s = track.seen_s - track.started_s
        final = not track.samples and waited_s >= self._window_s and track.tell_once(decision.reason)
        return FaceReport(face, decision, track.id, final=final)
