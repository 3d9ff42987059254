"""The wire contract: topics, documents and their JSON form. Knows neither the broker nor the store."""

from __future__ import annotations

import json
import re
import secrets
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from kiosk.biometrics import Decision, ModelId, Reason, SubjectId

ATTENDANCE = "event/attendance"
"""Topic below the device's prefix."""
REJECTED = "event/rejected"
HEALTH = "health"
REPLAY = "cmd/replay"
"""Where a kiosk listens for the wish to have events again."""
ONLINE = b"online"
OFFLINE = b"offline"

_ID = r"^[A-Za-z0-9._-]{1,64}$"
_SCORE_DIGITS = 4
MAX_SEQ = 2**53
"""What every JSON reader takes for an integer."""

Id = Annotated[str, Field(pattern=_ID)]
Timestamp = Annotated[
    str,
    Field(
        pattern=r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{3}Z$",
        json_schema_extra={"format": "date-time"},
        description="UTC, milliseconds, e.g. 2026-03-02T07:58:13.412Z",
    ),
]
Uuid = Annotated[
    str, Field(pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$", json_schema_extra={"format": "uuid"})
]
Score = Annotated[float, Field(ge=-1, le=1)]


_FOLDERS = re.compile(r"(?<![\w:/.])/(?!dev/)(?:[^/:;\n]*/)+")


def without_folders(text: str) -> str:
    """``/home/ada/kiosk.db: no space left`` → ``kiosk.db: no space left``: the way to a file may name a person."""
    return _FOLDERS.sub("", text)


Words = Annotated[str, AfterValidator(without_folders)]
"""About the kiosk's own state, for whoever may read `health`: no id, no name, and of a path only its end."""


class EventType(StrEnum):
    CHECK_IN = "check_in"
    CHECK_OUT = "check_out"
    BREAK_START = "break_start"
    BREAK_END = "break_end"


TIME_CORRECTION = "time_correction"
"""Event type of a :class:`TimeCorrection`; it shares topic and ``seq`` with the events it corrects."""
MANUAL_ENTRY = "manual_entry"
"""Of a :class:`ManualEntry`, likewise."""
VOID = "void"
"""Of a :class:`Void`, likewise."""


class Method(StrEnum):
    """Which way somebody was known. Both count the same."""

    FACE = "face"
    CODE = "code"


class Rejection(StrEnum):
    """Event types of the rejected topic."""

    UNKNOWN = "unknown"
    SPOOF = "spoof"
    QUALITY = "quality"
    AMBIGUOUS = "ambiguous"
    CODE = "code"


@dataclass(frozen=True, slots=True)
class Origin:
    """Which kiosk speaks. ``timezone``: IANA name of the site's time zone."""

    site: str
    device: str
    timezone: str


@dataclass(frozen=True, slots=True)
class Moment:
    """When something happened, on both clocks. ``boottime_ms`` is comparable only within one ``boot_id``."""

    utc_ms: int
    synchronized: bool
    boottime_ms: int
    boot_id: str = ""


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    def payload(self) -> dict[str, Any]:
        """The document as JSON-ready values, in the contract's field order."""
        return self.model_dump(mode="json")

    def encode(self) -> bytes:
        return encode(self.payload())


Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Signature = Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]{86}==$")]


class _Signable(_Document):
    """An event; members about signing are there only where the kiosk signs (docs/signatures.md)."""

    signature: Signature = Field(default="", description="Ed25519, Base64; only with mqtt.sign_key_file")

    @model_serializer(mode="wrap")
    def _without_empty_signature(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        document = serialize(self)
        signature = {"signature": document.pop("signature")}
        previous = {"previous": document.pop("previous")} if "previous" in document else {}
        return {**document, **previous, **signature} if self.signature else document


class _Chained(_Signable):
    """An event with a number."""

    previous: Sha256 | None = Field(
        default=None, description="hash of the event before this one, null for the first; only with mqtt.sign_key_file"
    )


class SubjectRef(_Document):
    """Who. ``name`` is present only when the kiosk is configured to let names leave the device."""

    id: Id
    name: str = Field(default="", min_length=1, description="only with mqtt.include_names")

    @model_serializer(mode="wrap")
    def _without_empty_name(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in serialize(self).items() if key != "name" or value}


class Match(_Document):
    """What the decision rests on. ``margin`` is null while only one subject is enrolled."""

    score: Score
    threshold: Score
    margin: Annotated[float, Field(ge=0, le=2)] | None
    frames: int = Field(ge=1)
    gallery_size: int = Field(ge=1, description="enrolled subjects searched")
    model: str = Field(description="model id: bundle@hash")


class Pad(_Document):
    """Presentation attack detection; ``passed`` and ``score`` are null when nothing was checked."""

    checked: bool = False
    passed: bool | None = None
    score: Annotated[float, Field(ge=0, le=1)] | None = None


def pad_of(decision: Decision) -> Pad:
    """What presentation attack detection said of a decision's face."""
    if decision.pad is None:
        return Pad()
    return Pad(checked=True, passed=decision.pad.passed, score=rounded_score(decision.pad.score))


class ClockReading(_Document):
    """What a later correction of the time rests on."""

    boot_id: str = Field(default="", description="identifies the kiosk's boot; empty where the system does not tell")
    boottime_ms: int = Field(default=0, ge=0, description="milliseconds since that boot; never steps")
    corrected_by_ms: int | None = Field(
        default=None, description="occurred_at was moved by so much before the event was sent; null: never"
    )


class AttendanceEvent(_Chained):
    """Somebody checked in or out, or began or ended a break.

    De-duplicate on ``event_id``; prove completeness with ``seq``.
    """

    event_type: EventType
    event_id: Uuid
    seq: int = Field(ge=1, description="per device, without gaps, never reused")
    occurred_at: Timestamp
    tz: str = Field(description="IANA time zone of the site")
    clock_synchronized: bool
    replayed: bool = Field(default=False, description="sent late or again: open no door for it")
    site: Id
    device: Id
    subject: SubjectRef
    method: Method = Method.FACE
    match: Match | None = Field(description="null where no face was compared: somebody came by a code")
    pad: Pad = Pad()
    clock: ClockReading = ClockReading()


class CorrectedTime(_Document):
    """When an event really happened."""

    event_id: Uuid
    seq: int = Field(ge=1)
    occurred_at: Timestamp
    was: Timestamp = Field(description="what the event said")


class TimeCorrection(_Chained):
    """An event was sent before the kiosk knew the time; this one says when it was. Opens no door, counts nobody."""

    event_type: Literal["time_correction"] = "time_correction"
    event_id: Uuid
    seq: int = Field(ge=1, description="shares the numbers of the attendance events")
    occurred_at: Timestamp = Field(description="when the correction was made")
    tz: str
    clock_synchronized: bool = True
    replayed: bool = Field(default=False, description="sent late or again")
    site: Id
    device: Id
    corrects: CorrectedTime


class AddedEvent(_Document):
    """What happened, as somebody says who was not the kiosk."""

    event_type: EventType
    occurred_at: Timestamp


class ManualEntry(_Chained):
    """Somebody has added what the kiosk did not record. Opens no door: it tells of the past, and nobody was seen."""

    event_type: Literal["manual_entry"] = "manual_entry"
    event_id: Uuid
    seq: int = Field(ge=1, description="shares the numbers of the attendance events")
    occurred_at: Timestamp = Field(description="when it was entered")
    tz: str = Field(description="IANA time zone of the site")
    clock_synchronized: bool
    replayed: bool = Field(default=False, description="sent late or again")
    site: Id
    device: Id
    subject: SubjectRef
    adds: AddedEvent
    clock: ClockReading = ClockReading()


class VoidedEvent(_Document):
    """The event that counts no more."""

    event_id: Uuid
    seq: int = Field(ge=1)


class Void(_Chained):
    """An earlier event, recorded or added, is void: count it no more. Opens no door."""

    event_type: Literal["void"] = "void"
    event_id: Uuid
    seq: int = Field(ge=1, description="shares the numbers of the attendance events")
    occurred_at: Timestamp = Field(description="when it was voided")
    tz: str = Field(description="IANA time zone of the site")
    clock_synchronized: bool
    replayed: bool = Field(default=False, description="sent late or again")
    site: Id
    device: Id
    voids: VoidedEvent
    clock: ClockReading = ClockReading()


NumberedEvent = AttendanceEvent | TimeCorrection | ManualEntry | Void
"""Whatever has a ``seq`` and a row of its own in log and outbox."""


class RejectedEvent(_Signable):
    """A face or a code that led to no check-in. Carries no subject, and nothing of the code; sent at most once."""

    event_type: Rejection
    event_id: Uuid
    occurred_at: Timestamp
    tz: str
    clock_synchronized: bool
    site: Id
    device: Id
    reason: Reason
    threshold: Score | None = Field(description="null for a code")
    score: Score | None = Field(description="best score against the gallery; null when none was searched")


class Problem(_Document):
    """Something that needs somebody's attention. ``what`` is one line; it names no person, and no folder."""

    part: Literal["camera", "reader", "store", "outbox", "broker", "clock", "feedback", "board", "model"]
    what: Words


class FrameHealth(_Document):
    """``p50_ms``, ``p95_ms``: from the picture to the decision, over the last 512 frames."""

    processed: int = Field(ge=0, description="since the start")
    per_s: float | None = Field(description="since the last health document")
    p50_ms: float | None
    p95_ms: float | None
    idle: bool = Field(default=False, description="nobody is there and nothing moves, so few pictures are looked at")


class CameraHealth(_Document):
    """Counted since the start."""

    fault: Words | None = Field(description="why no pictures come, null while all is well")
    reconnects: int = Field(ge=0)
    stalls: int = Field(ge=0, description="times pictures stayed away")
    last_frame_age_s: float | None


class OutboxHealth(_Document):
    pending: int = Field(ge=0)
    parked: int = Field(ge=0, description="set aside because they broke connections, or are too large")
    oldest_unsent_at: Timestamp | None
    kept_from_seq: int | None = Field(description="the lowest seq a replay can reach")
    last_seq: int | None = Field(description="the highest seq given out so far")


class StoreHealth(_Document):
    fault: Words | None = Field(description="why check-ins are or would be refused, null while all is well")
    free_mib: int = Field(description="free on its disk; -1 where nobody can tell")
    last_backup_at: str | None = Field(description="UTC; null without a backup")
    restored: Words | None = Field(description="what the last restore from a backup did, null when there was none")


class BoardHealth(_Document):
    """The computer itself; null where it does not tell. ``…_seen``: now or at some time since the start."""

    undervoltage: bool | None
    undervoltage_seen: bool | None
    throttled: bool | None = Field(description="slowed down by its firmware, for heat or for want of power")
    throttled_seen: bool | None
    disk_errors: int | None = Field(description="of ext4 file systems, until they are repaired")
    wear_percent: int | None = Field(description="of the most worn eMMC's life, in tens; over 100: outlived")


class Health(_Document):
    """How the kiosk is; published every minute and whenever a problem comes or goes. Not retained.

    `kiosk check` sends one in which nothing is measured, to see whether the broker takes it; its only problem says so.
    """

    site: Id
    device: Id
    at: Timestamp
    uptime_s: int = Field(ge=0, description="since the start, begun seconds; 0: a trial of `kiosk check`")
    problems: list[Problem]
    frames: FrameHealth
    camera: CameraHealth
    store: StoreHealth
    outbox: OutboxHealth
    clock_synchronized: bool
    decisions: dict[str, int] = Field(description="final decisions since the start, by reason, and check_ins")
    last_event_at: Timestamp | None = Field(description="occurred_at of what this kiosk recorded last")
    temperature_c: float | None = Field(description="the processor's")
    board: BoardHealth


class ReplayCommand(_Document):
    """Somebody wants events again. The same ``id`` is obeyed once."""

    model_config = ConfigDict(strict=True)

    from_seq: int = Field(ge=1)
    to_seq: int = Field(ge=1, le=MAX_SEQ)
    id: Id

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.to_seq < self.from_seq:
            raise ValueError("to_seq must not be below from_seq")
        return self


class Info(_Document):
    """The birth document, retained: what this kiosk is and how it is set up."""

    site: Id
    device: Id
    version: str
    model: str
    timezone: str
    board: str | None = Field(description="what the computer calls itself; null where it does not tell")
    started_at: Timestamp
    capabilities: list[str]


@dataclass(frozen=True, slots=True)
class Topics:
    """Full topic names of one device. The subject is never part of a topic."""

    root: str
    site: str
    device: str

    @property
    def prefix(self) -> str:
        return f"{self.root.strip('/')}/{self.site}/{self.device}"

    @property
    def status(self) -> str:
        return self.below("status")

    @property
    def info(self) -> str:
        return self.below("info")

    @property
    def attendance(self) -> str:
        return self.below(ATTENDANCE)

    @property
    def rejected(self) -> str:
        return self.below(REJECTED)

    @property
    def replay(self) -> str:
        return self.below(REPLAY)

    @property
    def discovery(self) -> str:
        """Home Assistant accepts only letters, digits, ``_`` and ``-`` here, so a dot becomes ``_``."""
        return f"homeassistant/device/kiosk_{self.device.replace('.', '_')}/config"

    def below(self, topic: str) -> str:
        return f"{self.prefix}/{topic}"


def attendance_event(
    *,
    event_type: EventType,
    event_id: str,
    seq: int,
    moment: Moment,
    origin: Origin,
    subject: SubjectRef,
    match: Match | None,
    pad: Pad | None = None,
    method: Method = Method.FACE,
) -> AttendanceEvent:
    """The event as committed; ``replayed`` is decided anew each time it is sent."""
    return AttendanceEvent(
        event_type=event_type,
        event_id=event_id,
        seq=seq,
        occurred_at=utc_text(moment.utc_ms),
        tz=origin.timezone,
        clock_synchronized=moment.synchronized,
        site=origin.site,
        device=origin.device,
        subject=subject,
        method=method,
        match=match,
        pad=pad or Pad(),
        clock=ClockReading(boot_id=moment.boot_id, boottime_ms=moment.boottime_ms),
    )


def subject_ref(subject_id: SubjectId, name: str | None) -> SubjectRef:
    return SubjectRef(id=subject_id, name=name) if name else SubjectRef(id=subject_id)


def match_of(decision: Decision, *, gallery_size: int, model_id: ModelId) -> Match:
    """The part of an identified decision that leaves the device."""
    if decision.score is None:
        raise ValueError("an attendance event needs a decision with candidates")
    return Match(
        score=rounded_score(decision.score),
        threshold=rounded_score(decision.threshold),
        margin=None if decision.margin is None else round(float(decision.margin), _SCORE_DIGITS),
        frames=decision.frames,
        gallery_size=gallery_size,
        model=model_id,
    )


def rejection_of(reason: str) -> Rejection:
    """The event type a reason (a :class:`Reason`, or its text) is told under."""
    return _REJECTIONS.get(reason, Rejection.QUALITY)


def rejected_event(decision: Decision, *, moment: Moment, origin: Origin) -> RejectedEvent:
    """The event for an unknown or rejected face; leaves out whom it resembled."""
    score = None if decision.score is None else rounded_score(decision.score)
    return _rejected(decision.reason, moment, origin, threshold=rounded_score(decision.threshold), score=score)


def rejected_code(reason: Reason, *, moment: Moment, origin: Origin) -> RejectedEvent:
    """The event for a code that was not accepted; says neither what was entered nor for whom."""
    return _rejected(reason, moment, origin, threshold=None, score=None)


def _rejected(
    reason: Reason, moment: Moment, origin: Origin, *, threshold: float | None, score: float | None
) -> RejectedEvent:
    return RejectedEvent(
        event_type=rejection_of(reason),
        event_id=uuid7(moment.utc_ms),
        occurred_at=utc_text(moment.utc_ms),
        tz=origin.timezone,
        clock_synchronized=moment.synchronized,
        site=origin.site,
        device=origin.device,
        reason=reason,
        threshold=threshold,
        score=score,
    )


_REJECTIONS: dict[str, Rejection] = {
    Reason.UNKNOWN: Rejection.UNKNOWN,
    Reason.EMPTY_GALLERY: Rejection.UNKNOWN,
    Reason.AMBIGUOUS: Rejection.AMBIGUOUS,
    Reason.SPOOF: Rejection.SPOOF,
    Reason.CODE_WRONG: Rejection.CODE,
    Reason.CODE_LOCKED: Rejection.CODE,
    Reason.CODE_PAUSED: Rejection.CODE,
}


def nameless(event: Mapping[str, Any]) -> dict[str, Any]:
    """An event without ``subject.name``, which no signature covers."""
    subject = event.get("subject")
    if not isinstance(subject, Mapping):
        return dict(event)
    return {**event, "subject": {member: value for member, value in subject.items() if member != "name"}}


def encode(document: Mapping[str, Any]) -> bytes:
    """Compact UTF-8 JSON."""
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def utc_text(since_1970_ms: int) -> str:
    """``1772438293412`` → ``2026-03-02T07:58:13.412Z``; fixed width, so text order is time order."""
    seconds, millis = divmod(since_1970_ms, 1000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{millis:03d}Z"


def utc_ms(text: str) -> int:
    """The way back from :func:`utc_text`."""
    since_1970 = datetime.fromisoformat(text) - datetime(1970, 1, 1, tzinfo=UTC)
    return since_1970 // timedelta(milliseconds=1)


def uuid7(now_ms: int) -> str:
    """A time-ordered UUID (RFC 9562, version 7): 48 bits of milliseconds since 1970, the rest random."""
    value = (now_ms & (1 << 48) - 1) << 80 | secrets.randbits(80)
    value = value & ~(0xF << 76) | 0x7 << 76  # version
    value = value & ~(0x3 << 62) | 0x2 << 62  # variant
    return str(uuid.UUID(int=value))


def rounded_score(score: float) -> float:
    """Cosine scores overshoot ±1 by a rounding error of the arithmetic."""
    return min(1.0, max(-1.0, round(float(score), _SCORE_DIGITS)))
