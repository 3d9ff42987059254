import json
import os
import re
import subprocess
import sys
import uuid
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from kiosk.biometrics import Candidate, Decision, ModelId, Reason, SubjectId, Verdict
from kiosk.events import (
    AttendanceEvent,
    EventType,
    Match,
    Method,
    Moment,
    Origin,
    Topics,
    attendance_event,
    encode,
    match_of,
    rejected_code,
    rejected_event,
    subject_ref,
    utc_text,
    uuid7,
)

ORIGIN = Origin("hq", "door-1", "Asia/Seoul")
MOMENT = Moment(utc_ms=1_772_438_293_412, synchronized=True, boottime_ms=5)

ids = st.from_regex(r"[A-Za-z0-9._-]{1,64}", fullmatch=True)
scores = st.floats(-1, 1)
names = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=200)


@st.composite
def events(draw: st.DrawFn) -> AttendanceEvent:
    utc_ms = draw(st.integers(0, 4_000_000_000_000))
    method = draw(st.sampled_from(Method))
    return attendance_event(
        event_type=draw(st.sampled_from(EventType)),
        event_id=uuid7(utc_ms),
        seq=draw(st.integers(1, 2**53)),
        moment=Moment(utc_ms, draw(st.booleans()), 0),
        origin=Origin(draw(ids), draw(ids), "Asia/Seoul"),
        subject=subject_ref(SubjectId(draw(ids)), draw(st.none() | names)),
        method=method,
        match=None
        if method is Method.CODE
        else Match(
            score=draw(scores),
            threshold=draw(scores),
            margin=draw(st.none() | st.floats(0, 2)),
            frames=draw(st.integers(1, 1000)),
            gallery_size=draw(st.integers(1, 10**6)),
            model="facenet512-int8@9f31c2",
        ),
    )


def example(**changes: object) -> AttendanceEvent:
    values: dict[str, object] = {
        "event_type": EventType.CHECK_IN,
        "event_id": "0198f2c6-7c1e-7d30-9a52-5e2f0c1b7a11",
        "seq": 4711,
        "moment": MOMENT,
        "origin": ORIGIN,
        "subject": subject_ref(SubjectId("E1042"), None),
        "match": Match(
            score=0.81, threshold=0.62, margin=0.27, frames=5, gallery_size=48, model="facenet512-int8@9f31c2"
        ),
    }
    return attendance_event(**(values | changes))  # type: ignore[arg-type]


def test_attendance_event_is_the_contracts_to_the_byte() -> None:
    assert example().encode().decode() == (
        '{"event_type":"check_in","event_id":"0198f2c6-7c1e-7d30-9a52-5e2f0c1b7a11","seq":4711,'
        '"occurred_at":"2026-03-02T07:58:13.412Z","tz":"Asia/Seoul","clock_synchronized":true,"replayed":false,'
        '"site":"hq","device":"door-1","subject":{"id":"E1042"},"method":"face",'
        '"match":{"score":0.81,"threshold":0.62,"margin":0.27,"frames":5,"gallery_size":48,'
        '"model":"facenet512-int8@9f31c2"},"pad":{"checked":false,"passed":null,"score":null},'
        '"clock":{"boot_id":"","boottime_ms":BOOT,"corrected_by_ms":null}}'.replace("BOOT", str(MOMENT.boottime_ms))
    )


def test_name_is_sent_only_when_given_and_unescaped() -> None:
    assert (
        b'"subject":{"id":"E1","name":"\xea\xb9\x80\xec\x98\x81"}'
        in example(subject=subject_ref(SubjectId("E1"), "김영")).encode()
    )
    assert b"name" not in example(subject=subject_ref(SubjectId("E1"), "")).encode()


@given(events())
def test_payload_survives_the_wire(event: AttendanceEvent) -> None:
    wire = event.encode()
    assert AttendanceEvent.model_validate_json(wire) == event
    assert encode(json.loads(wire)) == wire


@pytest.mark.parametrize(
    "wrong",
    [
        {"extra": 1},
        {"seq": 0},
        {"occurred_at": "2026-03-02 07:58:13Z"},
        {"event_id": "x"},
        {"event_type": "break"},
        {"site": "a/b"},
        {"subject": {"id": "E 1"}},
        {"subject": {"id": "E1\n"}},
    ],
)
def test_documents_refuse_what_the_contract_does_not_allow(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        AttendanceEvent.model_validate(example().payload() | wrong)


def test_match_comes_from_the_decision_with_numpy_and_rounding_errors_removed() -> None:
    candidates = (
        Candidate(SubjectId("a"), float(np.float32(1.0000001))),
        Candidate(SubjectId("b"), float(np.float32(0.5))),
    )
    match = match_of(
        Decision(Verdict.IDENTIFIED, Reason.MATCH, np.float64(0.62), candidates, frames=3),
        gallery_size=2,
        model_id=ModelId("m@1"),
    )
    assert match.payload() == {
        "score": 1.0,
        "threshold": 0.62,
        "margin": 0.5,
        "frames": 3,
        "gallery_size": 2,
        "model": "m@1",
    }


def test_match_has_no_margin_with_a_single_subject() -> None:
    decision = Decision(Verdict.IDENTIFIED, Reason.MATCH, 0.6, (Candidate(SubjectId("a"), 0.9),))
    assert match_of(decision, gallery_size=1, model_id=ModelId("m")).margin is None


def test_match_needs_candidates() -> None:
    with pytest.raises(ValueError, match="candidates"):
        match_of(Decision(Verdict.UNKNOWN, Reason.NO_FACE, 0.6), gallery_size=1, model_id=ModelId("m"))


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        (Reason.UNKNOWN, "unknown"),
        (Reason.EMPTY_GALLERY, "unknown"),
        (Reason.AMBIGUOUS, "ambiguous"),
        (Reason.BLURRED, "quality"),
        (Reason.TOO_SMALL, "quality"),
    ],
)
def test_rejected_event_names_the_reason_and_nobody(reason: Reason, kind: str) -> None:
    decision = Decision(Verdict.REJECTED, reason, 0.6, (Candidate(SubjectId("E1042"), 0.55),))
    wire = rejected_event(decision, moment=MOMENT, origin=ORIGIN).encode()
    assert b"E1042" not in wire
    document = json.loads(wire)
    assert (document["event_type"], document["reason"], document["score"]) == (kind, reason.value, 0.55)


@pytest.mark.parametrize("reason", [Reason.CODE_WRONG, Reason.CODE_LOCKED, Reason.CODE_PAUSED])
def test_rejected_code_tells_neither_score_nor_threshold(reason: Reason) -> None:
    event = rejected_code(reason, moment=MOMENT, origin=ORIGIN)
    assert (event.event_type, event.reason, event.threshold, event.score) == ("code", reason, None, None)


def test_topics() -> None:
    topics = Topics("kiosk/v1", "hq", "door-1")
    assert topics.attendance == "kiosk/v1/hq/door-1/event/attendance"
    assert topics.rejected == "kiosk/v1/hq/door-1/event/rejected"
    assert topics.status == "kiosk/v1/hq/door-1/status"
    assert topics.info == "kiosk/v1/hq/door-1/info"
    assert topics.discovery == "homeassistant/device/kiosk_door-1/config"
    assert Topics("a", "b", "c.d").discovery == "homeassistant/device/kiosk_c_d/config"


@given(st.integers(0, 4_000_000_000_000), st.integers(1, 10**6))
def test_time_text_orders_as_time_does(utc_ms: int, later: int) -> None:
    texts = [utc_text(utc_ms), utc_text(utc_ms + later)]
    assert texts == sorted(texts)
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", text) for text in texts)


@given(st.integers(0, 2**48 - 1))
def test_uuid7_is_one_and_carries_the_time(utc_ms: int) -> None:
    value = uuid.UUID(uuid7(utc_ms))
    assert (value.version, value.variant) == (7, uuid.RFC_4122)
    assert value.int >> 80 == utc_ms


def test_uuid7_differs_within_a_millisecond_and_sorts_by_time() -> None:
    assert len({uuid7(1) for _ in range(1000)}) == 1000
    values = [uuid7(utc_ms) for utc_ms in range(1_700_000_000_000, 1_700_000_000_100)]
    assert all(first < second for first, second in pairwise(values))


def test_importing_events_loads_neither_broker_nor_database() -> None:
    code = "import sys, kiosk.events; sys.exit(bool({'paho', 'sqlite3', 'sqlite_utils'} & set(sys.modules)))"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COV")}  # imports sqlite3
    assert subprocess.run([sys.executable, "-c", code], check=False, env=environment).returncode == 0
