import pytest
from hypothesis import given
from hypothesis import strategies as st

from kiosk.biometrics import Candidate, Reason, SubjectId, Verdict
from kiosk.decision import DecisionRule, RefractoryPeriod

RULE = DecisionRule(threshold=0.6, margin=0.05)


def candidates(*scores: float) -> tuple[Candidate, ...]:
    return tuple(Candidate(SubjectId(f"s{i}"), score) for i, score in enumerate(scores))


@pytest.mark.parametrize(
    ("scores", "verdict", "reason"),
    [
        ((), Verdict.UNKNOWN, Reason.EMPTY_GALLERY),
        ((0.59,), Verdict.UNKNOWN, Reason.UNKNOWN),
        ((0.60,), Verdict.IDENTIFIED, Reason.MATCH),
        ((0.80, 0.76), Verdict.REJECTED, Reason.AMBIGUOUS),
        ((0.80, 0.74), Verdict.IDENTIFIED, Reason.MATCH),
        ((0.59, 0.58), Verdict.UNKNOWN, Reason.UNKNOWN),
    ],
)
def test_threshold_and_margin(scores: tuple[float, ...], verdict: Verdict, reason: Reason) -> None:
    decision = RULE.decide(candidates(*scores))
    assert (decision.verdict, decision.reason) == (verdict, reason)
    assert (decision.subject_id == "s0") == (verdict is Verdict.IDENTIFIED)


def test_a_decisive_score_below_the_threshold_makes_no_sense() -> None:
    with pytest.raises(ValueError, match="below threshold"):
        DecisionRule(0.6, 0.05, decisive=0.59)


@pytest.mark.parametrize(
    ("scores", "frames", "enough"),
    [
        ((0.7,), 4, False),
        ((0.7,), 5, True),
        ((0.8,), 1, False),
        ((0.8,), 2, True),
        ((0.8, 0.78), 2, False),
        ((0.5,), 4, False),
        ((0.5,), 5, True),
    ],
)
def test_a_decisive_score_makes_do_with_fewer_frames(scores: tuple[float, ...], frames: int, enough: bool) -> None:
    rule = DecisionRule(0.6, 0.05, decisive=0.8)
    assert rule.has_enough(rule.decide(candidates(*scores), frames=frames), 5) == enough


def test_no_score_is_decisive_unless_told_so() -> None:
    assert not RULE.has_enough(RULE.decide(candidates(1.0), frames=2), 3)


@given(st.lists(st.floats(-1, 1), max_size=5).map(lambda s: sorted(s, reverse=True)))
def test_nobody_is_identified_below_the_threshold_or_within_the_margin(scores: list[float]) -> None:
    decision = RULE.decide(candidates(*scores))
    if decision.verdict is Verdict.IDENTIFIED:
        assert scores[0] >= RULE.threshold
        assert len(scores) == 1 or scores[0] - scores[1] >= RULE.margin
    else:
        assert decision.subject_id is None


def test_refractory_period_is_per_subject_and_ends() -> None:
    refractory = RefractoryPeriod(60)
    alice, bob = SubjectId("alice"), SubjectId("bob")
    assert refractory.admits(alice, 100.0)
    refractory.note(alice, 100.0)
    assert not refractory.admits(alice, 159.9)
    assert refractory.admits(bob, 101.0)
    assert refractory.admits(alice, 160.0)


def test_asking_does_not_start_the_period() -> None:
    refractory = RefractoryPeriod(60)
    assert refractory.admits(SubjectId("a"), 1.0)
    assert refractory.admits(SubjectId("a"), 2.0)


def test_one_person_under_two_ids_is_ambiguous_though_each_is_in_the_others_crowd() -> None:
    rule = DecisionRule(0.5, 0.05, crowd_size=5, crowd_weight=0.5)
    decision = rule.decide(candidates(0.66, 0.65, 0.05))
    assert decision.threshold == pytest.approx(0.5 + 0.5 * (0.65 + 0.05) / 2)
    assert (decision.verdict, decision.reason) == (Verdict.REJECTED, Reason.AMBIGUOUS)
    # A stranger who resembles everybody has a crowd without the second one, too.
    assert rule.decide(candidates(0.6, 0.59, 0.5, 0.5, 0.5)).reason is Reason.UNKNOWN
