import pytest

from kiosk.advice import advise
from kiosk.biometrics import Quality, Reason
from kiosk.decision import DecisionRule
from kiosk.events import Moment, Origin, Rejection, rejected_event

NO_MATTER_OF_QUALITY = {
    Reason.MATCH,
    Reason.NO_FACE,
    Reason.UNKNOWN,
    Reason.AMBIGUOUS,
    Reason.EMPTY_GALLERY,
    Reason.SPOOF,
    Reason.CODE_WRONG,
    Reason.CODE_LOCKED,
    Reason.CODE_PAUSED,
}
FAILURES = [reason for reason in Reason if reason not in NO_MATTER_OF_QUALITY]
MEASURED = Quality(31, 5, 10, 0.9, None, 12.4, 3.2, 0.7, 0.1, 0.55)


def failed(reason: Reason | None, *, measured: bool = True) -> Quality:
    quality = MEASURED if measured else Quality(31, 5, 10)
    return Quality(**{**{name: getattr(quality, name) for name in Quality.__slots__}, "failure": reason})


@pytest.mark.parametrize("measured", [True, False])
@pytest.mark.parametrize("reason", FAILURES)
def test_every_failure_says_in_one_line_what_is_wrong_and_what_to_do(reason: Reason, *, measured: bool) -> None:
    line = advise(failed(reason, measured=measured))
    assert line.startswith("the face is ")
    assert line.isprintable()
    assert len(line.split("; ")) == 2


def test_the_figure_behind_the_failure_is_told() -> None:
    assert "12 px between the eyes" in advise(failed(Reason.TOO_SMALL))
    assert "31 px wide" in advise(failed(Reason.TOO_SMALL, measured=False))
    assert "contrast 3" in advise(failed(Reason.LOW_CONTRAST))
    assert "detector score 0.55" in advise(failed(Reason.UNCLEAR))


@pytest.mark.parametrize("reason", [None, *sorted(NO_MATTER_OF_QUALITY)])
def test_what_is_no_matter_of_quality_has_no_advice(reason: Reason | None) -> None:
    with pytest.raises(ValueError, match="no advice"):
        advise(failed(reason))


@pytest.mark.parametrize("reason", FAILURES)
def test_every_failure_is_published_as_one_of_quality(reason: Reason) -> None:
    decision = DecisionRule(0.6, 0.05).reject(reason, failed(reason))
    event = rejected_event(decision, moment=Moment(0, True, 0), origin=Origin("hq", "door-1", "UTC"))
    assert (event.event_type, event.reason) == (Rejection.QUALITY, reason)
