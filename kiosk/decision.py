"""From candidates to a decision, and from decisions to check-ins. Pure: no clock, no I/O."""

from __future__ import annotations

import math
from dataclasses import dataclass

from kiosk.biometrics import Candidate, Decision, PadScore, Quality, Reason, SubjectId, Verdict

# The first candidate and as many others as bundles take into the crowd: a reader can do the sum again.
_KEPT_CANDIDATES = 6
# One frame cannot contradict itself: a decisive score has to hold when a second one is fused with it.
_DECISIVE_FRAMES = 2


@dataclass(frozen=True, slots=True)
class DecisionRule:
    """Identified: the first candidate reaches the threshold and leads the next subject by ``margin``.

    All are scores (cosine similarity). Within the margin two subjects are too alike to tell apart: ambiguous.
    ``crowd_weight`` times the mean score of the ``crowd_size`` subjects after the first is added to ``threshold``: a
    face that resembles many needs a higher score to be one of them (``kiosk.thresholds``). ``decisive``, at or above
    ``threshold`` and like it without the crowd's share, is the score from which fewer frames than usual will do; never
    by default.

    Raises:
        ValueError: ``decisive`` lies below ``threshold``.
    """

    threshold: float
    margin: float
    crowd_size: int = 0
    crowd_weight: float = 0.0
    decisive: float = math.inf

    def __post_init__(self) -> None:
        if self.decisive < self.threshold:
            raise ValueError(f"decisive {self.decisive} is below threshold {self.threshold}")

    def decide(
        self,
        candidates: tuple[Candidate, ...],
        *,
        frames: int = 1,
        quality: Quality | None = None,
        pad: PadScore | None = None,
    ) -> Decision:
        """Judge candidates given in descending score. The decision's threshold has the crowd's share in it.

        A presentation attack is rejected as that, whomever it resembles.
        """
        threshold = self.threshold + self._crowd(candidates)
        verdict, reason = self._judge(candidates, threshold)
        if pad is not None and not pad.passed:
            verdict, reason = Verdict.REJECTED, Reason.SPOOF
        kept = candidates[:_KEPT_CANDIDATES]
        return Decision(verdict, reason, threshold, kept, frames, quality, self.margin, pad=pad)

    def reject(self, reason: Reason, quality: Quality | None = None) -> Decision:
        """The decision for a face that is not searched at all."""
        return Decision(Verdict.REJECTED, reason, self.threshold, (), 0, quality, self.margin)

    def has_enough(self, decision: Decision, frames: int) -> bool:
        """Whether a decision rests on as many frames as are asked for, or is so clear that fewer will do."""
        decisive = (
            decision.verdict is Verdict.IDENTIFIED
            and decision.candidates[0].score - decision.threshold >= self.decisive - self.threshold
        )
        return decision.frames >= (min(frames, _DECISIVE_FRAMES) if decisive else frames)

    def _crowd(self, candidates: tuple[Candidate, ...]) -> float:
        others = candidates[1 : 1 + self.crowd_size]
        if not others:
            return 0.0
        return self.crowd_weight * sum(candidate.score for candidate in others) / len(others)

    def _judge(self, candidates: tuple[Candidate, ...], threshold: float) -> tuple[Verdict, Reason]:
        if not candidates:
            return Verdict.UNKNOWN, Reason.EMPTY_GALLERY
        first, others = candidates[0], candidates[1:]
        too_close = bool(others) and first.score - others[0].score < self.margin
        # One person under two ids: each is in the other's crowd, and without it would be identified.
        if too_close and len(others) > 1 and first.score >= self.threshold + self._crowd((first, *others[1:])):
            return Verdict.REJECTED, Reason.AMBIGUOUS
        if first.score < threshold:
            return Verdict.UNKNOWN, Reason.UNKNOWN
        return (Verdict.REJECTED, Reason.AMBIGUOUS) if too_close else (Verdict.IDENTIFIED, Reason.MATCH)


class RefractoryPeriod:
    """Silence after a check-in: one visit is one event, however long somebody stands at the door."""

    def __init__(self, period_s: float) -> None:
        self._period_s = period_s
        self._last_s: dict[SubjectId, float] = {}

    def admits(self, subject_id: SubjectId, now_s: float) -> bool:
        """Whether a check-in at ``now_s`` (monotonic seconds) would be a new visit."""
        last_s = self._last_s.get(subject_id)
        return last_s is None or now_s - last_s >= self._period_s

    def note(self, subject_id: SubjectId, now_s: float) -> None:
        """Remember a check-in that was committed."""
        self._last_s[subject_id] = now_s
