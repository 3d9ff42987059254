"""Codes on a real store: what is accepted, how often one may be wrong, what outlives a restart and an erasure."""

from __future__ import annotations

import itertools
import logging
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_store import file_bytes, template

from kiosk import codes
from kiosk.biometrics import Reason, SubjectId
from kiosk.codes import (
    FORGIVEN,
    MAX_FAILURES,
    CodeAnswer,
    CodeDesk,
    Entry,
    Failure,
    Kind,
    hash_secret,
    new_number,
    new_pin,
    new_salt,
    new_token,
    parse_entry,
    refusal,
)
from kiosk.errors import InputError, StoreError
from kiosk.store import Store

ANA, BO = SubjectId("ana"), SubjectId("bo")
MINUTE_S = 60
CARD = "04A1B2C3D4"
KEPT_FAILURES = "SELECT document FROM marks WHERE name = 'code_failures'"


@dataclass
class Clock:
    """Time since boot, which stands still until a test moves it."""

    now_s: float = 1000.0

    def boottime_s(self) -> float:
        return self.now_s

    def utc_ms(self) -> int:
        return 0

    def synchronized(self) -> bool:
        return False


@dataclass
class Door:
    """A desk, and people who stand before it."""

    store: Store
    clock: Clock
    desk: CodeDesk
    number: int

    def enter(self, line: str) -> CodeAnswer:
        entry = parse_entry(line)
        assert entry is not None
        return self.desk.judge(entry)

    def reason(self, line: str, *, after_s: float = 0) -> Reason:
        self.clock.now_s += after_s
        return self.enter(line).reason

    def right(self, *, after_s: float = 0) -> Reason:
        return self.reason(f"{self.number}-482913", after_s=after_s)

    def wrong(self, *, after_s: float = 0) -> Reason:
        return self.reason(f"{self.number}-000000", after_s=after_s)

    def stranger(self, *, after_s: float = 0) -> Reason:
        return self.reason("no-such-badge", after_s=after_s)

    def restart(self, boot_id: str, now_s: float) -> None:
        self.clock.now_s = now_s
        self.desk = CodeDesk(self.store, clock=self.clock, boot_id=boot_id)
        self.desk.open()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """The real function at a thousandth of its cost; who tests the cost says so."""
    if "real_cost" not in request.fixturenames:
        monkeypatch.setattr(codes, "_SCRYPT_N", 2**4)
        monkeypatch.setattr(codes, "_SCRYPT_P", 1)


@pytest.fixture
def real_cost() -> None:
    """The parameters as shipped."""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "kiosk.db") as store:
        store.enroll(ANA, [], name="Ana")
        store.enroll(BO, [template()], name="Bo")
        yield store


def give_pin(store: Store, subject_id: SubjectId, pin: str) -> int:
    salt = new_salt()
    return store.set_pin(subject_id, salt=salt, digest=hash_secret(pin, salt), now_ms=0)


def give_badge(store: Store, subject_id: SubjectId, token: str) -> None:
    salt = (store.badge_salts() or [new_salt()])[0]
    store.set_badge(subject_id, salt=salt, digest=hash_secret(token, salt), now_ms=0)


@pytest.fixture
def door(store: Store) -> Door:
    """Ana has a PIN, 482913, and a card."""
    number = give_pin(store, ANA, "482913")
    give_badge(store, ANA, CARD)
    clock = Clock()
    desk = CodeDesk(store, clock=clock, boot_id="boot")
    desk.open()
    return Door(store, clock, desk, number)


# --- what an entry is


@pytest.mark.parametrize(
    "line", ["104-482913", "104*482913", " 104#482913\r", "104 482913", "104.482913", "104+482913"]
)
def test_a_pin_is_typed_behind_its_number(line: str) -> None:
    entry = parse_entry(line)
    assert entry == Entry(Kind.PIN, 104, "482913")
    assert "482913" not in f"{entry} {entry!r}"


@pytest.mark.parametrize("line", [CARD, "0001234567", "8" * 128, "E1042-badge"])
def test_everything_else_in_one_piece_is_a_badge(line: str) -> None:
    assert parse_entry(line) == Entry(Kind.BADGE, None, line)


@pytest.mark.parametrize(
    "line", ["", "   ", "1042", "8" * 129, "with a blank", "nul\0nul\0nul", "ümlaut-badge", "a\nb" * 9]
)
def test_what_can_be_no_code_is_none(line: str) -> None:
    assert parse_entry(line) is None


@given(st.text(max_size=300))
def test_no_line_is_too_strange_to_be_parsed(line: str) -> None:
    entry = parse_entry(line)
    assert entry is None or entry.secret in line


def test_secrets_are_of_full_length_and_all_different() -> None:
    assert {len(new_pin()) for _ in range(200)} == {6}
    assert len({new_token() for _ in range(200)}) == 200
    assert len(new_token()) == 32  # 128 bits


def test_numbers_are_short_and_nobody_elses() -> None:
    taken: list[int] = []
    for _ in range(700):
        taken.append(new_number(taken))
    assert len(set(taken)) == 700
    assert {len(str(number)) for number in taken} == {3, 4}
    assert all(parse_entry(f"{number}-000000") for number in taken)


# --- who is let in


def test_a_pin_and_a_card_name_their_owner(door: Door) -> None:
    assert door.enter(f"{door.number}-482913") == CodeAnswer(Kind.PIN, Reason.MATCH, 1000.0, ANA)
    assert door.enter(CARD) == CodeAnswer(Kind.BADGE, Reason.MATCH, 1000.0, ANA)


def test_a_wrong_pin_an_unknown_number_and_an_unknown_card_name_nobody(door: Door) -> None:
    unknown = new_number([door.number])
    for line in (f"{door.number}-482914", f"{unknown}-482913", CARD[:-1] + "5", CARD.lower()):
        assert door.enter(line).subject_id is None
        assert door.reason(line) is Reason.CODE_WRONG


def test_the_right_pin_of_another_is_wrong(door: Door) -> None:
    other = give_pin(door.store, BO, "111111")
    assert door.reason(f"{other}-482913") is Reason.CODE_WRONG
    assert door.enter(f"{other}-111111").subject_id == BO


def test_a_new_pin_keeps_the_number_and_voids_the_old_one(door: Door) -> None:
    assert give_pin(door.store, ANA, "999999") == door.number
    assert door.right() is Reason.CODE_WRONG
    assert door.enter(f"{door.number}-999999").subject_id == ANA
    assert len(door.store.codes()) == 2


def test_a_badge_is_one_persons(door: Door) -> None:
    with pytest.raises(InputError, match="this badge is ana's"):
        give_badge(door.store, BO, CARD)
    give_badge(door.store, ANA, "another-card")
    assert door.reason(CARD) is Reason.CODE_WRONG
    give_badge(door.store, BO, CARD)
    assert door.enter(CARD).subject_id == BO


def test_badges_of_two_salts_both_open(door: Door) -> None:
    """A store that was put together from a backup and a damaged file may have them."""
    door.store.set_badge(BO, salt=b"other" * 3, digest=hash_secret("bos-badge", b"other" * 3), now_ms=0)
    assert len(door.store.badge_salts()) == 2
    assert door.enter("bos-badge").subject_id == BO
    assert door.enter(CARD).subject_id == ANA


def test_a_code_taken_away_opens_no_more(door: Door) -> None:
    assert door.store.remove_codes(ANA) == [Kind.BADGE, Kind.PIN]
    assert door.right() is Reason.CODE_WRONG
    assert door.reason(CARD) is Reason.CODE_WRONG
    assert door.store.remove_codes(ANA) == []


def test_nobody_gets_a_code_without_being_there(store: Store) -> None:
    with pytest.raises(InputError, match="kiosk subjects add nobody"):
        give_pin(store, SubjectId("nobody"), "123456")


def test_a_code_row_that_is_damaged_opens_nothing_and_stays_damaged(door: Door, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "kiosk.db") as db:
        db.execute("UPDATE codes SET subject_id = 'bo'")
    db.close()
    for _ in range(3):
        assert door.reason(CARD) is Reason.CODE_WRONG
        assert door.right() is Reason.CODE_WRONG
    assert "of codes" in str(door.store.integrity_problem())


# --- how often


def test_five_wrong_pins_lock_the_number_for_a_quarter_of_an_hour(door: Door) -> None:
    assert [door.wrong(after_s=60) for _ in range(5)] == [Reason.CODE_WRONG] * 5
    assert door.right(after_s=1) is Reason.CODE_LOCKED
    assert door.right(after_s=14 * MINUTE_S) is Reason.CODE_LOCKED
    assert door.right(after_s=MINUTE_S) is Reason.MATCH


def test_a_number_that_nobody_has_is_locked_like_one_that_somebody_has(door: Door) -> None:
    """Otherwise a lock, which reader and events tell, would say which numbers there are."""
    pace_s = [0, 30, 60, 60, 60, 1, 14 * MINUTE_S, MINUTE_S, *[90] * 4, 1, 60, 15 * MINUTE_S, *[1] * 22]

    def answers(number: int) -> list[CodeAnswer]:
        door.restart(f"boot {number}", 1000.0)
        door.clock.now_s += 60 * MINUTE_S
        told = []
        for after_s in pace_s:
            door.clock.now_s += after_s
            told.append(door.enter(f"{number}-000000"))
        return told

    unknown = new_number([door.number])
    known = answers(door.number)
    assert answers(unknown) == known
    assert {answer.reason for answer in known} == {Reason.CODE_WRONG, Reason.CODE_LOCKED, Reason.CODE_PAUSED}
    door.store.remove_codes(ANA)
    assert answers(door.number) == known


def test_a_lock_does_not_end_with_the_pin(door: Door) -> None:
    for _ in range(5):
        door.wrong()
    door.store.remove_codes(ANA)
    assert door.wrong() is Reason.CODE_LOCKED


def test_typing_on_does_not_prolong_a_lock(door: Door) -> None:
    for _ in range(5):
        door.wrong()
    assert [door.wrong(after_s=MINUTE_S) for _ in range(14)] == [Reason.CODE_LOCKED] * 14
    assert door.right(after_s=MINUTE_S) is Reason.MATCH


def test_a_lock_is_one_numbers_and_no_badges(door: Door) -> None:
    other = give_pin(door.store, BO, "111111")
    for _ in range(6):
        door.wrong()
    assert door.reason(f"{other}-111111") is Reason.MATCH
    assert door.reason(CARD) is Reason.MATCH


def test_slow_mistakes_and_those_before_a_right_entry_lock_nothing(door: Door) -> None:
    assert {door.wrong(after_s=4 * MINUTE_S) for _ in range(30)} == {Reason.CODE_WRONG}
    door.clock.now_s += 15 * MINUTE_S
    for _ in range(4):
        for _ in range(4):
            assert door.wrong() is Reason.CODE_WRONG
        assert door.right(after_s=2 * MINUTE_S) is Reason.MATCH


def test_twenty_wrong_codes_in_five_minutes_pause_everything_for_one(door: Door) -> None:
    assert [door.stranger(after_s=10) for _ in range(20)] == [Reason.CODE_WRONG] * 20
    assert door.reason(CARD, after_s=1) is Reason.CODE_PAUSED
    assert door.reason(CARD, after_s=58) is Reason.CODE_PAUSED
    assert door.reason(CARD, after_s=1) is Reason.MATCH
    # One more wrong one within the same minutes is one too many again.
    assert door.stranger() is Reason.CODE_WRONG
    assert door.reason(CARD) is Reason.CODE_PAUSED
    assert door.reason(CARD, after_s=MINUTE_S) is Reason.MATCH


def test_guesses_are_bounded_whatever_the_pace(door: Door) -> None:
    """Somebody who tries every two seconds, at all numbers: the figure that docs/second-way.md counts with."""
    numbers = itertools.cycle(range(100, 1000))
    looked_at = sum(
        door.reason(f"{next(numbers)}-123456", after_s=2) is not Reason.CODE_PAUSED for _ in range(20 * MINUTE_S // 2)
    )
    assert 4 * 20 <= looked_at <= 4 * 20 + 5


def test_after_a_hundred_failures_only_a_new_pin_helps(door: Door, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "kiosk"):
        for _ in range(MAX_FAILURES):
            assert door.wrong(after_s=20 * MINUTE_S) is Reason.CODE_WRONG
    assert [record.getMessage() for record in caplog.records] == [
        "the PIN of ana is off after 100 failures; `kiosk subjects code ana` makes a new one"
    ]
    assert door.right(after_s=20 * MINUTE_S) is Reason.CODE_WRONG
    assert [code.spent for code in door.store.codes()] == [False, True]
    give_pin(door.store, ANA, "482913")
    assert door.right() is Reason.MATCH


def test_the_hundredth_try_may_be_right(door: Door) -> None:
    for _ in range(MAX_FAILURES - 1):
        door.wrong(after_s=20 * MINUTE_S)
    assert door.right(after_s=20 * MINUTE_S) is Reason.MATCH
    (failures,) = [code.failures for code in door.store.codes() if code.kind is Kind.PIN]
    assert failures == MAX_FAILURES - 1 - FORGIVEN


def test_right_entries_cost_nothing_and_leave_nothing(door: Door) -> None:
    assert {door.right() for _ in range(50)} | {door.reason(CARD) for _ in range(50)} == {Reason.MATCH}
    assert [code.failures for code in door.store.codes()] == [0, 0]


def test_a_new_pin_ends_the_lock(door: Door) -> None:
    for _ in range(5):
        door.wrong()
    give_pin(door.store, ANA, "999999")
    assert door.reason(f"{door.number}-999999") is Reason.MATCH


# --- over a restart


@pytest.mark.parametrize("block", [Door.wrong, Door.stranger], ids=["number", "all"])
def test_a_restart_ends_no_lock_and_prolongs_none(door: Door, block: Callable[[Door], Reason]) -> None:
    for _ in range(20 if block is Door.stranger else 5):
        block(door)
    blocked_s = MINUTE_S if block is Door.stranger else 15 * MINUTE_S
    door.restart("boot", door.clock.now_s + blocked_s - 1)
    assert door.right() in {Reason.CODE_LOCKED, Reason.CODE_PAUSED}
    door.restart("boot", door.clock.now_s + 1)
    assert door.right() is Reason.MATCH


@pytest.mark.parametrize("boot_id", ["another", ""])
def test_after_a_reboot_a_lock_begins_anew(door: Door, boot_id: str) -> None:
    """No clock can be trusted to tell how long the kiosk was off."""
    for _ in range(5):
        door.wrong()
    door.restart(boot_id, 3.0)
    assert door.right() is Reason.CODE_LOCKED
    assert door.right(after_s=14 * MINUTE_S) is Reason.CODE_LOCKED
    assert door.right(after_s=MINUTE_S) is Reason.MATCH


def test_who_cuts_the_power_during_a_guess_has_used_it_up(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    class PowerCut(BaseException): ...

    def cut(*_: object) -> bytes:
        raise PowerCut

    with monkeypatch.context() as patch:
        patch.setattr(codes, "hash_secret", cut)
        for _ in range(5):
            with pytest.raises(PowerCut):
                door.right()
    door.restart("boot", door.clock.now_s)
    assert door.right() is Reason.CODE_LOCKED


def test_refusals_follow_from_the_failures_alone() -> None:
    assert refusal([], 104, 0) is None
    five = [Failure(104, at_ms) for at_ms in range(5)]
    assert refusal(five, 104, 5) is Reason.CODE_LOCKED
    assert refusal(five, 105, 5) is None
    assert refusal(five, None, 5) is None
    assert refusal([Failure(None, 0)] * 20, None, 59_999) is Reason.CODE_PAUSED
    assert refusal([Failure(None, 0)] * 20, None, 60_000) is None


# --- what is kept


def test_no_secret_is_in_the_store_or_the_log(door: Door, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        door.desk.hear(f"{door.number}-654321")
        door.desk.hear(f"{door.number}-482913")
        door.desk.hear(CARD)
        door.desk.hear("no code at all")
        assert len(door.desk.take()) == 3
    content = file_bytes(tmp_path / "kiosk.db")
    for secret in ("482913", "654321", CARD):
        assert secret.encode() not in content
        assert secret not in caplog.text
    assert door.desk.counts == {"code_unreadable": 1}


@pytest.mark.parametrize("reboot_every_s", [None, 6 * MINUTE_S])
def test_what_is_kept_of_wrong_codes_does_not_grow(door: Door, reboot_every_s: int | None) -> None:
    """The bound that docs/second-way.md states, for somebody who tries another number every second for an hour."""
    numbers, sizes = itertools.cycle(range(100_000, 1_000_000)), []
    for second in range(1, 60 * MINUTE_S):
        door.reason(f"{next(numbers)}-123456", after_s=1)
        if reboot_every_s is not None and second % reboot_every_s == 0:
            door.restart(f"boot {second}", door.clock.now_s)
        if second % MINUTE_S == 0:
            ((document,),) = [tuple(row.values()) for row in door.store._rows(KEPT_FAILURES)]
            sizes.append((document.count("[") - 1, len(document)))
    kept, in_bytes = (max(column) for column in zip(*sizes, strict=True))
    assert 100 < kept <= 144
    assert in_bytes < 4096


def test_erasing_a_person_erases_the_codes_from_the_bytes(door: Door, tmp_path: Path) -> None:
    hashes = [code.hash for code in door.store.codes()]
    with door.store.backups.alone():
        door.store.backups.take()
    assert all(one in file_bytes(tmp_path / "kiosk.db") for one in hashes)
    assert door.store.remove_subject(ANA).complete
    left = file_bytes(tmp_path / "kiosk.db") + b"".join(backup.path.read_bytes() for backup in door.store.backups.all())
    assert not any(one in left for one in hashes)
    assert door.right() is Reason.CODE_WRONG


def test_the_audit_log_tells_of_codes_and_nothing_in_them(door: Door) -> None:
    door.store.remove_codes(ANA)
    rows = [(row.action, row.details) for row in door.store.audit_rows(subject=ANA)][1:]
    assert rows == [
        ("code", '{"kind":"pin"}'),
        ("code", '{"kind":"badge"}'),
        ("remove_code", '{"kind":"badge"}'),
        ("remove_code", '{"kind":"pin"}'),
    ]


def test_a_pause_is_told_once(door: Door) -> None:
    for _ in range(30):
        door.desk.hear("no-such-badge")
    reasons = [answer.reason for answer in door.desk.take()]
    assert reasons == [Reason.CODE_WRONG] * 20 + [Reason.CODE_PAUSED]
    assert door.desk.counts["code_ignored"] == 9


def test_without_a_store_nothing_is_accepted(door: Door, caplog: pytest.LogCaptureFixture) -> None:
    door.store.close()
    for _ in range(3):
        door.desk.hear(CARD)
    assert door.desk.take() == []
    assert door.desk.fault is not None
    assert "codes are not accepted" in door.desk.fault
    assert len(caplog.records) == 1


def test_a_desk_opens_although_the_store_cannot_be_written(
    door: Door, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(5):
        door.wrong()

    def fail(**_: object) -> None:
        raise StoreError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(door.store, "inherit_failures", fail)
        door.restart("another", 3.0)
    assert door.desk.fault == "codes are not accepted: no space left"
    assert len(caplog.records) == 1
    assert door.right() is Reason.CODE_LOCKED
    assert door.right(after_s=15 * MINUTE_S) is Reason.MATCH


@pytest.mark.usefixtures("real_cost")
def test_a_wrong_code_takes_as_long_as_a_right_one(store: Store) -> None:
    clock = Clock()
    number = give_pin(store, ANA, "482913")
    give_badge(store, ANA, CARD)
    door = Door(store, clock, CodeDesk(store, clock=clock, boot_id="boot"), number)
    lines = [f"{number}-482913", f"{number}-482914", f"{new_number([number])}-482913", CARD, "no-such-badge"]
    took: dict[str, list[float]] = {line: [] for line in lines}
    for _ in range(3):
        for line in lines:
            clock.now_s += 20 * MINUTE_S
            began_s = time.process_time()
            door.enter(line)
            took[line].append(time.process_time() - began_s)
    medians = [median(times) for times in took.values()]
    assert max(medians) < 1.5 * min(medians)
    assert min(medians) > 0.02  # somebody who has the file tries a million PINs in hours, not in seconds
