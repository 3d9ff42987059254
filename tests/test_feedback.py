"""What the door shows: its rhythms, which of several things comes first, and when the relay may move."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_attendance import GALLERY, MODEL, VECTOR, Clock

from kiosk.attendance import AttendanceBook, AttendanceSettings
from kiosk.biometrics import (
    Box,
    Candidate,
    Decision,
    Face,
    FaceReport,
    PadScore,
    Reason,
    SubjectId,
    Verdict,
)
from kiosk.codes import CodeAnswer, Kind
from kiosk.config import Config, load
from kiosk.decision import RefractoryPeriod
from kiosk.errors import ConfigError
from kiosk.events import AttendanceEvent, EventType, Origin, Problem
from kiosk.feedback import DOOR_FAULTS, LATE_S, Feedback, describe_relay
from kiosk.signs import Output, OutputPin, Pattern, Plan, RelayTerms, Sign
from kiosk.store import Limits, NewTemplate, Store

LIGHTS = {
    Sign.ACCEPTED: Pattern((2000,)),
    Sign.REPEAT: Pattern((300, 300), 2),
    Sign.REFUSED: Pattern((200, 200), 4),
    Sign.WAIT: Pattern((100, 900)),
    Sign.FAULT: Pattern((500, 2500)),
}
SOUNDS = {Sign.ACCEPTED: Pattern((150,)), Sign.REFUSED: Pattern((600, 200), 2)}
NO_PATTERN = "must be milliseconds on and off in turns, like 150 100 x3 (x3: three times)"
ALL = {output: OutputPin(number) for number, output in enumerate(Output, start=2)}
FACE = Face(Box(0, 0, 100, 100), 0.9)


class Now:
    """A monotonic clock of the test's own."""

    def __init__(self) -> None:
        self.s = 1000.0

    def __call__(self) -> float:
        return self.s


class Door(Feedback):
    """A feedback whose clock the test moves."""

    def __init__(
        self, *, terms: RelayTerms | None = None, guarded: bool = True, pins: frozenset[Output] = frozenset(Output)
    ) -> None:
        self.now = Now()
        self.changes = 0
        plan = Plan({output: ALL[output] for output in pins}, LIGHTS, SOUNDS, terms or RelayTerms())
        super().__init__(plan, guarded=guarded, clock=self.now)
        self.on_change = self._count

    def _count(self) -> None:
        self.changes += 1

    def on(self, after_s: float = 0) -> set[str]:
        """What is on so much later."""
        self.now.s += after_s
        return {output.value for output in self.at(self.now.s).on}


def face(reason: Reason = Reason.MATCH, *, track_id: int = 1, final: bool = False) -> FaceReport:
    verdict = {Reason.MATCH: Verdict.IDENTIFIED, Reason.UNKNOWN: Verdict.UNKNOWN}.get(reason, Verdict.REJECTED)
    candidates = (Candidate(SubjectId("a"), 0.8),)
    return FaceReport(
        FACE, Decision(verdict, reason, 0.6, candidates, 3, pad=PadScore(0.9, 0.5)), track_id, final=final
    )


def event(event_type: str = "check_in", *, method: str = "face", pad: bool | None = True) -> AttendanceEvent:
    return AttendanceEvent.model_validate(
        {
            "event_type": event_type,
            "event_id": "0198f2c6-7c1e-7d30-9a52-5e2f0c1b7a11",
            "seq": 1,
            "occurred_at": "2026-03-02T07:58:13.412Z",
            "tz": "UTC",
            "clock_synchronized": True,
            "site": "hq",
            "device": "door-1",
            "subject": {"id": "a"},
            "method": method,
            "match": None,
            "pad": {} if pad is None else {"checked": True, "passed": pad, "score": 0.9},
        }
    )


def problem(part: str) -> Problem:
    return Problem.model_validate({"part": part, "what": "is not well"})


# --- rhythms ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "steps", "repeats"),
    [("2000", (2000,), 1), ("150 100 x3", (150, 100), 3), ("  20   30  x1 ", (20, 30), 1), ("15000", (15_000,), 1)],
)
def test_a_pattern_is_times_and_repeats(text: str, steps: tuple[int, ...], repeats: int) -> None:
    assert Pattern.parse(text) == Pattern(steps, repeats)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "milliseconds on and off"),
        ("x3", "milliseconds on and off"),
        ("100,100", "milliseconds on and off"),
        ("-100", "milliseconds on and off"),
        ("100 x", "milliseconds on and off"),
        ("١٠٠", "milliseconds on and off"),
        ("19", "from 20 to 15000 ms, not 19"),
        ("15001", "from 20 to 15000 ms, not 15001"),
        ("100 x0", "with its repeats"),
        ("8000 8000", "with its repeats"),
        ("100 100 x900000000", "with its repeats"),
        (" ".join(["20"] * 17), "has 17 times"),
    ],
)
def test_what_is_no_pattern_is_told(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Pattern.parse(text)


@given(
    steps=st.lists(st.integers(20, 900), min_size=1, max_size=16),
    repeats=st.integers(1, 4),
    endless=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_a_pattern_changes_when_it_says_and_never_in_between(steps: list[int], repeats: int, endless: bool) -> None:
    pattern = Pattern(tuple(steps), repeats)
    elapsed_s, told = 0.0, []
    for _ in range(3 * len(steps) * repeats):
        lit, change_s = pattern.at(elapsed_s, endless=endless)
        if change_s == math.inf:
            break
        assert change_s > 0
        assert pattern.at(elapsed_s + change_s / 2, endless=endless)[0] == lit
        told.append((lit, change_s))
        # A hair later, as any thread wakes up.
        elapsed_s += change_s + 1e-6
    if endless:
        assert elapsed_s == 0 if len(steps) == 1 else elapsed_s > sum(steps) / 1000
    else:
        assert elapsed_s == pytest.approx(pattern.duration_s, abs=1e-3)
        on_s = sum(change_s for lit, change_s in told if lit)
        assert on_s == pytest.approx(sum(steps[::2]) * repeats / 1000, abs=1e-3)


# --- signs ------------------------------------------------------------------------------------------------------------


def test_an_acceptance_is_shown_at_once_with_its_sound_and_ends() -> None:
    door = Door()
    assert door.on() == set()
    door.accepted(event("check_out"), age_s=0.3)
    assert door.on() == {"accepted", "buzzer"}
    assert door.on(0.16) == {"accepted"}
    assert door.on(1.83) == {"accepted"}
    assert door.on(0.02) == set()
    assert door.at(door.now.s).until_s == math.inf


def test_a_refusal_blinks_and_is_heard_and_one_for_a_poor_look_is_only_seen() -> None:
    door = Door()
    door.refused(Reason.UNKNOWN)
    assert [door.on(0.1 if n == 0 else 0.2) for n in range(4)] == [
        {"refused", "buzzer"},
        {"buzzer"},
        {"refused", "buzzer"},
        set(),
    ]
    assert door.on(3) == set()
    door.refused(Reason.BLURRED)
    assert door.on(0.1) == {"refused"}


@pytest.mark.parametrize("reason", [Reason.TOO_SMALL, Reason.NO_FACE])
def test_who_only_walks_past_is_told_nothing(reason: Reason) -> None:
    door = Door()
    door.refused(reason)
    door.show([face(reason)])
    assert door.on() == set()


def test_what_comes_while_an_acceptance_is_shown_waits_for_its_end() -> None:
    door = Door()
    door.accepted(event("check_out"), age_s=0)
    door.on(0.2)
    door.refused(Reason.UNKNOWN)
    assert door.on(1.7) == {"accepted"}
    assert door.on(0.2) == {"refused", "buzzer"}
    assert door.on(3) == set()


def test_an_acceptance_waits_for_nothing_and_a_second_one_is_seen_to_be_one() -> None:
    door = Door()
    door.refused(Reason.UNKNOWN)
    assert "refused" in door.on(0.05)
    door.accepted(event("check_out"), age_s=0)
    assert door.on() == set()
    assert door.on(0.16) == {"accepted", "buzzer"}
    door.accepted(event("check_out"), age_s=0)
    assert door.on() == set()
    assert door.on(0.16) == {"accepted", "buzzer"}


def test_a_repeat_is_friendly_and_moves_no_relay() -> None:
    door = Door()
    door.repeated()
    assert door.on(0.1) == {"accepted"}
    assert door.on(0.3) == set()
    assert door.on(0.3) == {"accepted"}
    assert door.on(0.3) == set()


def test_waiting_is_shown_while_a_face_is_being_decided_and_ends_by_itself() -> None:
    door = Door()
    door.show([face(Reason.UNKNOWN)])
    assert door.on(0.05) == {"wait"}
    changes = door.changes
    door.show([face(Reason.UNKNOWN)])
    # Nothing to wake up for.
    assert door.changes == changes
    assert door.on(0.1) == set()
    door.show([])
    assert door.on(0.9) == set()
    door.show([face(Reason.TOO_DARK)])
    assert door.on() == {"wait"}
    # The pictures end, and nobody says so.
    assert door.on(2.05) == set()
    assert door.at(door.now.s).until_s == math.inf


def test_who_was_told_something_is_not_waited_for_again() -> None:
    door = Door()
    door.show([face(Reason.UNKNOWN, final=True)])
    door.show([face(Reason.UNKNOWN)])
    assert door.on() == set()
    door.show([face(Reason.UNKNOWN), face(Reason.UNKNOWN, track_id=2)])
    assert door.on() == {"wait"}


def test_a_fault_blinks_underneath_and_has_a_light_of_its_own_or_the_red_one() -> None:
    door = Door()
    door.tell_problems([problem("camera")])
    assert door.on(0.1) == {"fault"}
    door.accepted(event("check_out"), age_s=0)
    assert door.on(0.1) == {"fault", "accepted", "buzzer"}
    assert door.on(0.5) == {"accepted"}
    red = Door(pins=frozenset({Output.ACCEPTED, Output.REFUSED}))
    red.tell_problems([problem("store")])
    assert red.on(0.1) == {"refused"}
    red.accepted(event("check_out"), age_s=0)
    assert red.on(0.1) == {"accepted"}
    assert red.on(2.9) == {"refused"}


def test_a_broker_that_is_away_is_no_fault_at_the_door() -> None:
    door = Door()
    door.tell_problems([problem(part) for part in ("outbox", "broker", "clock", "feedback")])
    assert door.on(0.1) == set()
    assert door.changes == 0


# --- the relay --------------------------------------------------------------------------------------------------------


def test_the_relay_is_driven_once_for_its_time() -> None:
    door = Door(terms=RelayTerms(pulse_s=3))
    door.accepted(event(), age_s=0.5)
    assert "relay" in door.on()
    assert "relay" in door.on(2.99)
    assert "relay" not in door.on(0.02)
    assert "relay" not in door.on(60)


@pytest.mark.parametrize(
    ("terms", "guarded", "what", "age_s", "moves"),
    [
        (RelayTerms(), True, event(), 0.5, True),
        (RelayTerms(), True, event("check_out"), 0.5, False),
        (RelayTerms(events=frozenset({"check_in", "check_out"})), True, event("check_out"), 0.5, True),
        (RelayTerms(), True, event(pad=None), 0.5, False),
        (RelayTerms(), True, event(pad=False), 0.5, False),
        (RelayTerms(), False, event(), 0.5, False),
        (RelayTerms(without_pad=True), False, event(pad=None), 0.5, True),
        (RelayTerms(), True, event(method="code", pad=None), 0.5, False),
        (RelayTerms(without_pad=True), True, event(method="code", pad=None), 0.5, False),
        (RelayTerms(by_code=True), False, event(method="code", pad=None), 0.5, True),
        (RelayTerms(by_code=True), False, event(pad=None), 0.5, False),
        (RelayTerms(), True, event(), LATE_S + 0.1, False),
        (RelayTerms(without_pad=True, by_code=True), True, event().model_copy(update={"replayed": True}), 0.5, False),
    ],
)
def test_the_relay_moves_only_for_what_it_was_set_to(
    terms: RelayTerms, guarded: bool, what: AttendanceEvent, age_s: float, moves: bool
) -> None:
    door = Door(terms=terms, guarded=guarded)
    door.accepted(what, age_s=age_s)
    shown = door.on()
    assert ("relay" in shown) == moves
    # The check-in is stored all the same.
    assert "accepted" in shown


def test_why_the_relay_stayed_off_is_logged_where_it_was_not_meant_to(caplog: pytest.LogCaptureFixture) -> None:
    Door(guarded=False).accepted(event(), age_s=0)
    Door().accepted(event(), age_s=30)
    Door().accepted(event("check_out"), age_s=0)
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert "from a picture of one" in caplog.messages[0]
    assert "30.0 s after the person was seen" in caplog.messages[1]


def test_a_relay_that_a_photo_could_move_is_told_loudly() -> None:
    plan = Plan(ALL, LIGHTS, SOUNDS)
    assert describe_relay(plan, guarded=True, pad="minifasnet") == (True, "the relay is driven for 3 s at check_in")
    safe, told = describe_relay(plan, guarded=False, pad="no pad bundle") or (True, "")
    assert not safe
    assert told.startswith("the relay stays off for faces: no pad bundle")
    loose = Plan(ALL, LIGHTS, SOUNDS, RelayTerms(without_pad=True))
    safe, told = describe_relay(loose, guarded=False, pad="no pad bundle") or (True, "")
    assert not safe
    assert "A PHOTO MAY OPEN THE DOOR" in told
    assert describe_relay(Plan({}, LIGHTS, SOUNDS), guarded=False, pad="") is None


# --- whatever happens -------------------------------------------------------------------------------------------------

PARTS = ["camera", "reader", "store", "outbox", "broker", "clock"]
STEP = st.one_of(
    st.tuples(st.just("pass"), st.floats(0.001, 4)),
    st.tuples(st.just("accept"), st.sampled_from(["check_in", "check_out"])),
    st.tuples(st.just("repeat"), st.none()),
    st.tuples(st.just("refuse"), st.sampled_from([Reason.UNKNOWN, Reason.TURNED, Reason.TOO_SMALL, None])),
    st.tuples(st.just("see"), st.sampled_from([0, 1, 2])),
    st.tuples(st.just("toggle"), st.integers(0, 7)),
)


@given(
    parts=st.lists(st.sampled_from(PARTS), min_size=8, max_size=8),
    steps=st.lists(STEP, max_size=40),
    own_light=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_faults_of_eight_sources_and_all_else_leave_every_output_right(
    parts: list[str], steps: list[tuple[str, object]], own_light: bool
) -> None:
    """Sources whose faults come and go in any order among everything else that happens."""
    door = Door(
        terms=RelayTerms(pulse_s=1.5), pins=frozenset(Output) - ({Output.FAULT} if not own_light else frozenset())
    )
    faulty: set[int] = set()
    accepted_s = repeated_s = opened_s = fault_since_s = -math.inf
    for number, (kind, value) in enumerate(steps):
        now_s = door.now.s
        match kind:
            case "accept":
                door.accepted(event(str(value)), age_s=0.1)
                accepted_s = now_s
                opened_s = now_s if value == "check_in" else opened_s
            case "repeat":
                door.repeated()
                repeated_s = now_s
            case "refuse":
                door.refused(value)  # type: ignore[arg-type]
            case "see":
                door.show([face(Reason.UNKNOWN, track_id=number)] * int(str(value)))
            case "toggle":
                well_before = not any(parts[source] in DOOR_FAULTS for source in faulty)
                faulty ^= {int(str(value))}
                door.tell_problems([problem(parts[source]) for source in sorted(faulty)])
                fault_since_s = now_s if well_before else fault_since_s
            case _:
                door.now.s += float(str(value))
        picture, now_s = door.at(door.now.s), door.now.s
        fault = any(parts[source] in DOOR_FAULTS for source in faulty)
        light = Output.FAULT if own_light else Output.REFUSED
        blink = fault and LIGHTS[Sign.FAULT].at(now_s - fault_since_s, endless=True)[0]
        if own_light:
            assert (light in picture.on) == blink
        elif blink and not {Output.ACCEPTED, Output.BUZZER} & picture.on and door._shown is None:
            assert light in picture.on
        # Green is what was stored a moment ago, and nothing else; the red light never beside it.
        if Output.ACCEPTED in picture.on:
            assert now_s < max(accepted_s + 2.2, repeated_s + 4 + 1)
            assert Output.REFUSED not in picture.on
        assert (Output.RELAY in picture.on) == (now_s < opened_s + 1.5)
        # Nothing changes before it says so.
        assert picture.until_s > now_s
        sooner_s = now_s + min(picture.until_s - now_s, 1e6) / 2
        assert door.at(sooner_s).on == picture.on
        door.now.s = sooner_s
    door.tell_problems([])
    door.show([])
    door.now.s += 60
    # Ends what was shown, and what had waited for that.
    door.at(door.now.s)
    door.now.s += 60
    picture = door.at(door.now.s)
    assert picture.on == frozenset()
    assert picture.until_s == math.inf


# --- with the attendance book -----------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "kiosk.db") as store:
        store.enroll(SubjectId("a"), [NewTemplate(MODEL, VECTOR)], name="A")
        yield store


def book_of(store: Store, door: Door) -> AttendanceBook:
    return AttendanceBook(
        store,
        AttendanceSettings(Origin("hq", "door-1", "UTC"), "check_in", outbox=True, include_name=False),
        clock=Clock(),
        boot_id="boot",
        refractory=RefractoryPeriod(60),
        on_check_in=lambda _: None,
        on_rejected=lambda _: None,
        door=door,
    )


def test_green_comes_after_the_commit_and_red_where_the_store_refuses(store: Store) -> None:
    door, now_s = Door(), Clock().boottime_s()
    book = book_of(store, door)
    store.limits = Limits(min_free_mib=1 << 40)
    for number in range(3):
        book.consider(face(final=number == 0), gallery=GALLERY, captured_s=now_s)
        # Owed, tried again with every frame; told once.
        assert not {"accepted", "relay"} & door.on(0.2)
    assert store.attendance() == []
    assert "refused" in door.on(0.2)
    store.limits = Limits(min_free_mib=0)
    book.consider(face(final=False), gallery=GALLERY, captured_s=now_s)
    assert len(store.attendance()) == 1
    assert {"accepted", "relay"} <= door.on(0.2)
    door.on(10)
    book.consider(face(final=True, track_id=2), gallery=GALLERY, captured_s=now_s + 5)
    assert door.on(0.1) == {"accepted"}
    assert len(store.attendance()) == 1
    store.remove_subject("a")
    door.on(10)
    book.consider(face(final=True, track_id=3), gallery=GALLERY, captured_s=now_s + 100)
    assert door.on(0.1) == {"refused", "buzzer"}


def test_a_frame_that_was_seen_long_ago_moves_no_relay(store: Store) -> None:
    door = Door()
    book_of(store, door).consider(face(final=True), gallery=GALLERY, captured_s=Clock().boottime_s() - 30)
    assert door.on(0.1) == {"accepted", "buzzer"}


def test_codes_are_told_as_faces_are(store: Store) -> None:
    door, now_s = Door(), Clock().boottime_s()
    book = book_of(store, door)
    book.consider_code(CodeAnswer(Kind.PIN, Reason.CODE_WRONG, now_s))
    assert door.on(0.1) == {"refused", "buzzer"}
    book.consider_code(CodeAnswer(Kind.PIN, Reason.MATCH, now_s, SubjectId("a")))
    assert door.on(0.2) == {"accepted", "buzzer"}
    door.on(10)
    book.consider_code(CodeAnswer(Kind.PIN, Reason.MATCH, now_s + 1, SubjectId("a")))
    assert door.on(0.1) == {"accepted"}


# --- the configuration ------------------------------------------------------------------------------------------------


def configured(tmp_path: Path, text: str) -> Config:
    file = tmp_path / "config.yaml"
    file.write_text(text, encoding="utf-8")
    return load(file, {})


def test_without_a_pin_there_is_nothing_to_show() -> None:
    assert Config().feedback.plan() is None


def test_a_configuration_becomes_a_plan(tmp_path: Path) -> None:
    plan = configured(
        tmp_path,
        "feedback:\n  pins: {accepted: 17, relay: 24}\n  active_low: {relay: true}\n"
        "  light: {accepted: 500}\n  sound: {refused: null}\n"
        "  relay: {pulse_s: 1, events: 'check_in, check_out', rests_on: true}\n",
    ).feedback.plan()
    assert plan is not None
    assert plan.pins == {
        Output.ACCEPTED: OutputPin(17),
        Output.RELAY: OutputPin(24, active_low=True, rests_on=True),
    }
    assert plan.lights[Sign.ACCEPTED] == Pattern((500,))
    assert set(plan.sounds) == {Sign.ACCEPTED, Sign.REPEAT}
    assert plan.relay == RelayTerms(1, frozenset({"check_in", "check_out"}))


def test_every_mistake_is_told_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as found:
        configured(
            tmp_path,
            "feedback:\n  pins: {accepted: 17, refused: 17, wait: 28}\n  light: {refused: 5, fault: a b}\n"
            "  relay: {pulse_s: 61, events: open}\n",
        )
    assert [line.removeprefix(f"{tmp_path}/") for line in str(found.value).splitlines()] == [
        "config.yaml:2: feedback.pins.refused: is 17, as accepted is; each output needs a pin of its own",
        "config.yaml:2: feedback.pins.wait: must be a whole number from 2 to 27 or null, not 28",
        "config.yaml:3: feedback.light.refused: each time must be from 20 to 15000 ms, not 5",
        f"config.yaml:3: feedback.light.fault: {NO_PATTERN}",
        "config.yaml:4: feedback.relay.pulse_s: must be a number from 0.1 to 60, not 61",
        f"config.yaml:4: feedback.relay.events: must be one or more of {', '.join(EventType)}, with commas",
    ]


def test_signs_differ_by_their_rhythm_and_flash_no_more_than_three_times_a_second() -> None:
    light, sound = Config().feedback.light, Config().feedback.sound
    rhythms = [Pattern.parse(getattr(light, sign)) for sign in Sign]
    for one, other in itertools.combinations(rhythms, 2):
        assert one != other
    assert len({sound.accepted, sound.repeat, sound.refused}) == 3
    for rhythm in rhythms:
        if len(rhythm.steps_ms) > 1:
            assert sum(rhythm.steps_ms) >= 1000 / 3
