"""The judge judged: every violation the fault tests count is one that the ledger really sees."""

from __future__ import annotations

from dataclasses import replace

import pytest

from faults.consumer import STALE_S, Arrival, Ledger

pytestmark = pytest.mark.faults

NOW_S = 1_800_000_000.0


def arrival(seq: int, *, event_id: str = "", replayed: bool = False, age_s: float = 0.1, device: str = "a") -> Arrival:
    return Arrival(device, seq, event_id or f"{device}-{seq}", "check_in", replayed, NOW_S - age_s, NOW_S)


def ledger(*arrivals: Arrival) -> Ledger:
    ledger = Ledger()
    for one in arrivals:
        ledger.note(one)
    return ledger


def test_a_clean_sequence_has_nothing_to_complain_of() -> None:
    summary = ledger(*(arrival(seq, device=device) for seq in (1, 2, 3) for device in "ab")).summary()
    assert (summary.arrivals, summary.events, summary.doors_opened) == (6, 6, 6)
    assert not any((summary.duplicates, summary.missing, summary.out_of_order, summary.conflicts))
    assert not any((summary.stale_as_fresh, summary.repeated_as_fresh))


def test_repetitions_are_duplicates_and_no_disorder() -> None:
    summary = ledger(arrival(1), arrival(2), replace(arrival(1), replayed=True), arrival(3)).summary()
    assert (summary.duplicates, summary.duplicate_share, summary.out_of_order) == (1, 0.25, 0)
    assert (summary.doors_opened, summary.repeated_as_fresh) == (3, 0)


def test_the_same_event_twice_as_live_opens_once() -> None:
    summary = ledger(arrival(1), arrival(1)).summary()
    assert (summary.doors_opened, summary.repeated_as_fresh) == (1, 1)


def test_gaps_are_ranges_up_to_the_highest_number_or_the_one_known_from_elsewhere() -> None:
    book = ledger(arrival(2), arrival(6))
    assert book.gaps("a") == [(1, 1), (3, 5)]
    assert book.gaps("a", 8) == [(1, 1), (3, 5), (7, 8)]
    assert book.gaps("b", 2) == [(1, 2)]
    assert book.summary().missing == 4


def test_a_first_delivery_behind_a_higher_number_is_out_of_order_unless_asked_for() -> None:
    book = ledger(arrival(1), arrival(3), arrival(2), arrival(4))
    assert book.summary().out_of_order == 1
    book.expect_again("a", [2])
    summary = book.summary()
    assert (summary.out_of_order, summary.filled_by_replay) == (0, 1)


def test_a_number_used_twice_is_a_conflict() -> None:
    assert ledger(arrival(1), arrival(1, event_id="other")).summary().conflicts == 1
    assert ledger(arrival(1), arrival(2, event_id="a-1")).summary().conflicts == 1


def test_what_a_broker_sends_once_more_is_no_late_delivery() -> None:
    summary = ledger(arrival(1), arrival(1, age_s=STALE_S + 1)).summary()
    assert (summary.stale_as_fresh, summary.stale_repeats, summary.doors_opened) == (0, 1, 1)


@pytest.mark.parametrize(
    ("age_s", "replayed", "event_type", "stale", "opened"),
    [
        (1.0, False, "check_in", 0, 1),
        (1.0, False, "check_out", 0, 0),
        (1.0, True, "check_in", 0, 0),
        (STALE_S + 1, False, "check_in", 1, 0),
        (STALE_S + 1, True, "check_in", 0, 0),
    ],
)
def test_doors_open_for_the_present_only(
    age_s: float, replayed: bool, event_type: str, stale: int, opened: int
) -> None:
    summary = ledger(replace(arrival(1, age_s=age_s, replayed=replayed), event_type=event_type)).summary()
    assert (summary.stale_as_fresh, summary.stale_repeats, summary.doors_opened) == (stale, 0, opened)
