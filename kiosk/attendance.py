"""From a final decision to a recorded check-in: refractory period, check-in or check-out, commit, then the telling."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, Protocol
from zoneinfo import ZoneInfo

from kiosk.biometrics import Decision, FaceReport, ModelId, SubjectId
from kiosk.decision import RefractoryPeriod
from kiosk.errors import KioskError
from kiosk.events import AttendanceEvent, EventType, Moment, Origin
from kiosk.gallery import Gallery
from kiosk.ports import Clock

log = logging.getLogger(__name__)

Mode = Literal["check_in", "check_out", "alternate"]


class Register(Protocol):
    """The part of the store attendance is written to."""

    def record_check_in(
        self,
        decision: Decision,
        *,
        event_type: EventType,
        moment: Moment,
        origin: Origin,
        model_id: ModelId,
        gallery_size: int,
        include_name: bool,
        outbox: bool,
    ) -> AttendanceEvent | None: ...

    def last_event_type(self, subject_id: str, since: datetime) -> EventType | None: ...


@dataclass(frozen=True, slots=True)
class AttendanceSettings:
    """``outbox``: whether events are sent at all; ``include_name``: whether names leave the device."""

    origin: Origin
    mode: Mode
    outbox: bool
    include_name: bool


class AttendanceBook:
    """Takes every face report; writes check-ins, counts the rest.

    ``on_check_in`` and ``on_rejected`` are called after the commit, and for final decisions without a subject.
    """

    def __init__(
        self,
        register: Register,
        settings: AttendanceSettings,
        *,
        clock: Clock,
        boot_id: str,
        refractory: RefractoryPeriod,
        on_check_in: Callable[[AttendanceEvent], None],
        on_rejected: Callable[[Decision, Moment], None],
    ) -> None:
        self._register = register
        self._settings = settings
        self._clock = clock
        self._boot_id = boot_id
        self._refractory = refractory
        self._on_check_in = on_check_in
        self._on_rejected = on_rejected
        # One report a visit is final. A check-in that could not be stored is owed until the person leaves.
        self._owed: set[tuple[int | None, SubjectId]] = set()
        self.counts: Counter[str] = Counter()
        """Final decisions by reason, and ``check_ins``, ``refractory`` and ``store_failures``."""

    def consider(self, report: FaceReport, *, gallery: Gallery, captured_s: float) -> None:
        """Act on a report: record a new visit, count everything else that is final."""
        decision = report.decision
        subject_id = decision.subject_id
        if not report.final and (subject_id is None or (report.track_id, subject_id) not in self._owed):
            return
        self.counts[decision.reason] += report.final
        if subject_id is None:
            self._on_rejected(decision, self._moment())
        elif not self._refractory.admits(subject_id, captured_s):
            self.counts["refractory"] += 1
        else:
            self._record(report, subject_id, gallery, captured_s)

    def _record(self, report: FaceReport, subject_id: SubjectId, gallery: Gallery, captured_s: float) -> None:
        owed = report.track_id, subject_id
        try:
            event = self._commit(report.decision, subject_id, gallery)
        except KioskError as error:
            if owed not in self._owed:
                log.error("check-in of %s not recorded: %s", subject_id, error)  # noqa: TRY400 - told in one line
            self.counts["store_failures"] += 1
            self._owed.add(owed)
            return
        self._owed.discard(owed)
        if event is None:
            log.info("%s was erased a moment ago; nothing recorded", subject_id)
            return
        self._refractory.note(subject_id, captured_s)
        self.counts["check_ins"] += 1
        self._on_check_in(event)

    def _commit(self, decision: Decision, subject_id: SubjectId, gallery: Gallery) -> AttendanceEvent | None:
        moment = self._moment()
        return self._register.record_check_in(
            decision,
            event_type=self._event_type(subject_id, moment),
            moment=moment,
            origin=self._settings.origin,
            model_id=gallery.model_id,
            gallery_size=len(gallery),
            include_name=self._settings.include_name,
            outbox=self._settings.outbox,
        )

    def _moment(self) -> Moment:
        return Moment(
            utc_ms=self._clock.utc_ms(),
            synchronized=self._clock.synchronized(),
            boottime_ms=round(self._clock.boottime_s() * 1000),
            boot_id=self._boot_id,
        )

    def _event_type(self, subject_id: SubjectId, moment: Moment) -> EventType:
        if self._settings.mode != "alternate":
            return EventType(self._settings.mode)
        last = self._register.last_event_type(subject_id, _local_midnight(moment, self._settings.origin.timezone))
        return EventType.CHECK_OUT if last is EventType.CHECK_IN else EventType.CHECK_IN


def _local_midnight(moment: Moment, timezone: str) -> datetime:
    """The start of the site's day."""
    local = datetime.fromtimestamp(moment.utc_ms / 1000, UTC).astimezone(ZoneInfo(timezone))
    return local.replace(hour=0, minute=0, second=0, microsecond=0)
