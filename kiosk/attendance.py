"""From a final decision to a recorded check-in: refractory period, check-in or check-out, commit, then the telling."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol
from zoneinfo import ZoneInfo

from kiosk.biometrics import Decision, FaceReport, ModelId, Reason, SubjectId
from kiosk.codes import CodeAnswer, Kind
from kiosk.decision import RefractoryPeriod
from kiosk.errors import KioskError
from kiosk.events import (
    AttendanceEvent,
    EventType,
    Moment,
    Origin,
    Pad,
    RejectedEvent,
    pad_of,
    rejected_code,
    rejected_event,
)
from kiosk.gallery import Gallery
from kiosk.ports import Clock
from kiosk.schedule import Rule, Schedule, Window, next_event

log = logging.getLogger(__name__)

_MOST_OWED = 64
"""People who stand at the door while nothing can be stored; of more the earliest have left."""

Mode = Literal["check_in", "check_out", "alternate", "schedule"]
Outside = Literal["check_in", "check_out", "alternate"]


class Corrected(Protocol):
    """How many events got another time: before they were sent, or by an event of their own."""

    @property
    def unsent(self) -> int: ...

    @property
    def sent(self) -> int: ...


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
        pad: Pad | None,
        threshold_source: str | None,
    ) -> AttendanceEvent | None: ...

    def record_code_check_in(
        self,
        subject_id: SubjectId,
        kind: Kind,
        *,
        event_type: EventType,
        moment: Moment,
        origin: Origin,
        include_name: bool,
        outbox: bool,
    ) -> AttendanceEvent | None: ...

    def record_code_rejection(self, kind: Kind, event: RejectedEvent, *, moment: Moment, origin: Origin) -> None: ...

    def record_rejection(
        self,
        decision: Decision,
        event: RejectedEvent,
        *,
        moment: Moment,
        origin: Origin,
        model_id: ModelId,
        gallery_size: int,
        threshold_source: str | None,
    ) -> None: ...

    def last_event_type(self, subject_id: str, since: datetime) -> EventType | None: ...

    def correct_times(self, moment: Moment, origin: Origin) -> Corrected: ...


@dataclass(frozen=True, slots=True)
class AttendanceSettings:
    """``outbox``: whether events are sent at all; ``include_name``: whether names leave the device.

    ``keep_rejections``: whether decisions without a check-in are stored. ``windows`` and ``outside``: what decides in
    the mode ``schedule``.
    """

    origin: Origin
    mode: Mode
    outbox: bool
    include_name: bool
    keep_rejections: bool = True
    windows: tuple[Window, ...] = ()
    outside: Outside = "alternate"

    def schedule(self) -> Schedule:
        """Every mode as a schedule: the others have no windows."""
        if self.mode == "schedule":
            return Schedule(self.windows, self.outside)
        return Schedule((), self.mode)


class Door(Protocol):
    """Tells whoever stands there what came of it, at once."""

    def accepted(self, event: AttendanceEvent, *, age_s: float) -> None:
        """The event is committed, ``age_s`` seconds after its person was seen."""

    def repeated(self) -> None:
        """It was a moment ago already."""

    def refused(self, reason: Reason | None) -> None:
        """Why nothing is recorded; None: for the store could not, or the subject is erased."""


class AttendanceBook:
    """Takes every face report; writes check-ins and what else is final.

    ``on_check_in`` is called after the commit, ``on_rejected`` for final decisions without a subject. ``door``, where
    there is one, is told first.
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
        on_rejected: Callable[[RejectedEvent], None],
        door: Door | None = None,
    ) -> None:
        self._door = door
        self._register = register
        self._settings = settings
        self._schedule = settings.schedule()
        self._zone = ZoneInfo(settings.origin.timezone)
        self._clock = clock
        self._boot_id = boot_id
        self._refractory = refractory
        self._on_check_in = on_check_in
        self._on_rejected = on_rejected
        # One report a visit is final. A check-in that could not be stored is owed until the person leaves.
        # The decision is kept, for only a final one has its frames with it.
        self._owed: dict[tuple[int | None, SubjectId], Decision] = {}
        self._told_unkept = False
        self._knew_time = False
        self.fault: str | None = None
        """Why the last check-in could not be recorded; None once one could be again."""
        self.counts: Counter[str] = Counter()
        """Final decisions by reason, and ``check_ins``, ``refractory``, ``store_failures`` and ``rejections_lost``."""

    def consider(
        self, report: FaceReport, *, gallery: Gallery, captured_s: float, threshold_source: str | None = None
    ) -> None:
        """Act on a report: record a new visit, keep and count everything else that is final.

        ``threshold_source``: why the threshold is what it is, in words.
        """
        decision = report.decision
        subject_id = decision.subject_id
        if not report.final and (subject_id is None or (report.track_id, subject_id) not in self._owed):
            return
        self.counts[decision.reason] += report.final
        if subject_id is None:
            self._refuse(decision.reason)
            self._on_rejected(self._keep(decision, gallery, threshold_source))
        elif not self._refractory.admits(subject_id, captured_s):
            self._note_repeat()
        else:
            self._record(report, subject_id, gallery, captured_s, threshold_source)

    def consider_code(self, answer: CodeAnswer) -> None:
        """Act on a code as on a face: record a new visit, keep and count what is none.

        Nothing is owed after a failure of the store: whoever stands there enters the code again.
        """
        self.counts[answer.reason] += 1
        subject_id = answer.subject_id
        if subject_id is None:
            self._refuse(answer.reason)
            self._on_rejected(self._keep_code(answer))
        elif not self._refractory.admits(subject_id, answer.at_s):
            self._note_repeat()
        else:
            self._attempt(
                subject_id, answer.at_s, lambda moment: self._commit_code(answer.kind, subject_id, moment), told=False
            )

    def _note_repeat(self) -> None:
        self.counts["refractory"] += 1
        if self._door is not None:
            self._door.repeated()

    def _refuse(self, reason: Reason | None) -> None:
        if self._door is not None:
            self._door.refused(reason)

    def follow_clock(self) -> bool:
        """Once the clock is set, correct what was recorded before. True: there is something new to send.

        Raises:
            KioskError: the store cannot be written; the next call tries again.
        """
        moment = self._moment()
        if not moment.synchronized or self._knew_time:
            self._knew_time = moment.synchronized
            return False
        corrected = self._register.correct_times(moment, self._settings.origin)
        self._knew_time = True
        if corrected.unsent or corrected.sent:
            log.info(
                "the clock is set: %s waiting events have the right time, %s sent ones are corrected",
                corrected.unsent,
                corrected.sent,
            )
        return bool(corrected.unsent or corrected.sent)

    def _record(
        self,
        report: FaceReport,
        subject_id: SubjectId,
        gallery: Gallery,
        captured_s: float,
        threshold_source: str | None,
    ) -> None:
        owed = report.track_id, subject_id
        decision = self._owed.get(owed, report.decision)
        told = owed in self._owed
        if self._attempt(
            subject_id,
            captured_s,
            lambda moment: self._commit(decision, subject_id, gallery, threshold_source, moment),
            told=told,
        ):
            return
        self._owed[owed] = decision
        while len(self._owed) > _MOST_OWED:
            del self._owed[next(iter(self._owed))]

    def _attempt(
        self,
        subject_id: SubjectId,
        at_s: float,
        commit: Callable[[Moment], AttendanceEvent | None],
        *,
        told: bool,
    ) -> bool:
        """Record a visit and tell of it; False when it could not be stored. ``told``: the log says so already."""
        try:
            event = commit(self._moment())
        except KioskError as error:
            if not told:
                log.error("check-in of %s not recorded: %s", subject_id, error)  # noqa: TRY400 - told in one line
                self._refuse(None)
            self.counts["store_failures"] += 1
            self.fault = f"check-ins are not recorded: {error}"
            return False
        if self.fault is not None:
            log.info("check-ins are recorded again")
        self.fault = None
        # By whichever way it has been paid.
        self._owed = {owed: decision for owed, decision in self._owed.items() if owed[1] != subject_id}
        if event is None:
            log.info("%s was erased a moment ago; nothing recorded", subject_id)
            self._refuse(None)
            return True
        if self._door is not None:
            self._door.accepted(event, age_s=self._clock.boottime_s() - at_s)
        self._refractory.note(subject_id, at_s)
        self.counts["check_ins"] += 1
        self._on_check_in(event)
        return True

    def _commit(
        self,
        decision: Decision,
        subject_id: SubjectId,
        gallery: Gallery,
        threshold_source: str | None,
        moment: Moment,
    ) -> AttendanceEvent | None:
        return self._register.record_check_in(
            decision,
            event_type=self._event_type(subject_id, moment),
            moment=moment,
            origin=self._settings.origin,
            model_id=gallery.model_id,
            gallery_size=len(gallery),
            include_name=self._settings.include_name,
            outbox=self._settings.outbox,
            pad=pad_of(decision),
            threshold_source=threshold_source,
        )

    def _commit_code(self, kind: Kind, subject_id: SubjectId, moment: Moment) -> AttendanceEvent | None:
        return self._register.record_code_check_in(
            subject_id,
            kind,
            event_type=self._event_type(subject_id, moment),
            moment=moment,
            origin=self._settings.origin,
            include_name=self._settings.include_name,
            outbox=self._settings.outbox,
        )

    def _keep(self, decision: Decision, gallery: Gallery, threshold_source: str | None) -> RejectedEvent:
        moment = self._moment()
        event = rejected_event(decision, moment=moment, origin=self._settings.origin)
        self._store_rejection(
            lambda: self._register.record_rejection(
                decision,
                event,
                moment=moment,
                origin=self._settings.origin,
                model_id=gallery.model_id,
                gallery_size=len(gallery),
                threshold_source=threshold_source,
            )
        )
        return event

    def _keep_code(self, answer: CodeAnswer) -> RejectedEvent:
        moment, origin = self._moment(), self._settings.origin
        event = rejected_code(answer.reason, moment=moment, origin=origin)
        self._store_rejection(
            lambda: self._register.record_code_rejection(answer.kind, event, moment=moment, origin=origin)
        )
        return event

    def _store_rejection(self, record: Callable[[], None]) -> None:
        """Store a decision without a check-in. It is worth no repetition, and no more than one line a fault."""
        if not self._settings.keep_rejections:
            return
        try:
            record()
        except KioskError as error:
            if not self._told_unkept:
                log.error("decisions without a check-in are not kept: %s", error)  # noqa: TRY400 - told in one line
            self.counts["rejections_lost"] += 1
            self._told_unkept = True
        else:
            self._told_unkept = False

    def _moment(self) -> Moment:
        # Asked first: a clock that is set between the two questions must not vouch for the time it showed before.
        synchronized = self._clock.synchronized()
        return Moment(
            utc_ms=self._clock.utc_ms(),
            synchronized=synchronized,
            boottime_ms=round(self._clock.boottime_s() * 1000),
            boot_id=self._boot_id,
        )

    def _event_type(self, subject_id: SubjectId, moment: Moment) -> EventType:
        rule: Rule = self._schedule.rule(moment.utc_ms, self._zone)
        if rule in {"check_in", "check_out"}:
            return EventType(rule)
        since = self._schedule.day_start(moment.utc_ms, self._zone)
        return EventType(next_event(rule, self._register.last_event_type(subject_id, since)))
