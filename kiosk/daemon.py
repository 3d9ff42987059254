"""The composition root of ``kiosk run``: builds every part from the configuration, runs the loop, stops in reverse."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from kiosk import __version__, events
from kiosk.attendance import AttendanceBook, AttendanceSettings
from kiosk.attention import Attention
from kiosk.badges import BadgeFinder
from kiosk.biometrics import Frame, SubjectId
from kiosk.board import Board
from kiosk.camera import Picamera2Settings, open_camera, shown_source
from kiosk.clock import SystemClock
from kiosk.code_reader import CodeReader
from kiosk.codes import CodeDesk
from kiosk.companion import Companion
from kiosk.config import Config
from kiosk.cooling import BackOff
from kiosk.credentials import find_credential
from kiosk.decision import RefractoryPeriod
from kiosk.errors import ConfigError, KeyFileError, KioskError, StoreError
from kiosk.events import (
    AttendanceEvent,
    BoardHealth,
    CameraHealth,
    Health,
    Info,
    Origin,
    OutboxHealth,
    Problem,
    RejectedEvent,
    StoreHealth,
    Topics,
)
from kiosk.feedback import Feedback, describe_relay
from kiosk.gallery import Gallery, Readiness
from kiosk.gpio import Panel
from kiosk.health import FrameTimes, HealthReporter
from kiosk.home_assistant import GREETING, GREETING_TOPIC, discovery_document
from kiosk.hosts import is_loopback
from kiosk.logs import fields
from kiosk.model_start import ModelStart, model_start
from kiosk.mqtt import BrokerSettings, MqttBroker, Tls
from kiosk.pipeline import (
    Pipeline,
    build_pad,
    build_pipeline,
    build_recognizer,
    build_rule,
    check_stand_in,
    describe_foreign,
    describe_pad,
    explain_accuracy,
    explain_threshold,
    models_folder,
)
from kiosk.ports import Camera, EndOfStream
from kiosk.preview import Preview, socket_path
from kiosk.publisher import Publisher
from kiosk.recognition import Recognizer
from kiosk.sdnotify import Heartbeat, Notifier
from kiosk.signatures import EventSigner, find_signer
from kiosk.store import Action, BackupKeeper, KeyFile, KeyRing, Limits, RefusedTemplatesError, Store, Unsent

log = logging.getLogger(__name__)

_READ_TIMEOUT_S = 0.5
_FOLLOW_STORE_S = 0.5
_HOUSEKEEPING_S = 3600.0
_DRAIN_ON_STOP_S = 5.0
_DRAIN_AT_END_S = 30.0
_LOOK_UP_S = 0.5
_LOOK_FOR_PROBLEMS_S = 1.0
_REPEAT_S = 60.0
# What the watchdog watches: each must get on, or systemd restarts the kiosk.
_CAPTURE = "capture"
_RECOGNITION = "recognition"
_PUBLISHER = "publisher"
# Where the configuration names no password file.
_PASSWORD_CREDENTIAL = "mqtt-password"  # noqa: S105 its name
_SIGNING_KEY = "mqtt.signing_key"
"""In the noted settings: the fingerprint of the public key, null while nothing is signed."""


def run_daemon(config: Config, *, page: Sequence[str] | None = None) -> None:
    """Run the kiosk until SIGTERM, SIGINT or the end of a finite source.

    ``page``: the command that serves the administration page beside it; None: nobody does.

    Raises:
        KioskError: a part the kiosk cannot do without cannot be had.
    """
    connection = broker_settings(config) if config.mqtt.enabled else None
    signer = event_signer(config) if config.mqtt.enabled else None
    with ExitStack() as stack:
        stopping = stack.enter_context(_stop_signals())
        start = stack.enter_context(_model_start(config))
        pipeline = build_pipeline(config, start.bundle)
        pipeline.embedder.warm_up()
        store = stack.enter_context(open_store_verified(config, signer))
        stack.enter_context(store.daemon_lock(pipeline.embedder.model_id))
        # The daemon before us may have committed until now.
        store.inherit_outbox()
        watcher = GalleryWatcher(config, pipeline, store, stands_in=start.unwanted)
        attention = Attention(after_s=config.idle.after_s if config.idle.enabled else None)
        camera = stack.enter_context(closing(open_configured_camera(config, attention)))
        _note_settings(config, pipeline, store)
        _settle_names(config, store)
        watcher.announce()
        _tell_stand_in(start, watcher, store)
        wake, greeted = threading.Event(), threading.Event()
        heartbeat = Heartbeat(_CAPTURE, _RECOGNITION, *([] if connection is None else [_PUBLISHER]))
        publisher = None
        if connection is not None:
            publisher = _start_publisher(
                stack, config, connection, store=store, watcher=watcher, wake=wake, greeted=greeted, heartbeat=heartbeat
            )
        preview = _open_preview(stack, config)
        feedback, panel = _open_panel(stack, config, watcher)
        book = _open_book(config, store, publisher, wake, preview, door=feedback)
        codes = _open_codes(stack, config, store)
        notifier = Notifier()
        daemon = Daemon(
            camera=camera,
            watcher=watcher,
            book=book,
            store=store,
            notifier=notifier,
            heartbeat=heartbeat,
            retention=Retention(config.store.retention_days, config.store.rejected_days),
            wake=wake,
            codes=codes,
            preview=preview,
            on_ready=start.succeed,
            feedback=feedback,
            panel=panel,
            attention=attention,
        )
        daemon.report_health(config.device.site, config.device.id, publisher, wanted=greeted)
        _start_keeper(stack, config, store)
        if page is not None:
            companion = Companion(page)
            companion.start()
            stack.callback(companion.stop)
        daemon.watch(stopping)
        notifier.stopping()
        camera.close()
        at_end = not stopping.is_set()
        _finish(publisher, store, stopping)
        log.info("stopped after %s frames: %s", daemon.frames, _describe_outcome(daemon, config, at_end=at_end))


class GalleryWatcher:
    """The gallery and the recognizer that searches it, kept up to date with what other processes write."""

    def __init__(self, config: Config, pipeline: Pipeline, store: Store, *, stands_in: bool = False) -> None:
        self._config = config
        self._stands_in = stands_in
        self._recognized, self._unrecognized = 0, 0
        self._pipeline = pipeline
        self._store = store
        self._stale = False
        self._foreign: str | None = None
        self._day: date | None = None
        self.key_fault: str | None = None
        """Why the templates cannot be decrypted; it may name people."""
        self.key_problem: str | None = None
        """The same for others to read."""
        self._useless_ring: KeyRing | None = None
        """What the key file held when that was so."""
        self.gallery = Gallery(pipeline.embedder.model_id, ())
        self.gallery = self._load()
        self.threshold_source = self._explain_threshold()
        self.recognizer: Recognizer = build_recognizer(config, pipeline, self.gallery, detector=pipeline.frame_detector)

    def follow(self) -> bool:
        """Take over what was enrolled or removed since the last look, and whose consent has ended.

        A failed look is repeated by the next. True: something has changed.
        """
        self._stale = self._stale or self._store.changed() or self._consent_has_ended() or self._key_is_back()
        if not self._stale:
            return False
        lapsed_before = self.gallery.lapsed
        self.gallery = self._load()
        self.threshold_source = self._explain_threshold()
        self.recognizer.use(self.gallery, build_rule(self._config, self._pipeline.bundle, self.gallery))
        self._stale = False
        log.info("gallery reloaded: %s", self.describe())
        self._tell_foreign()
        self._tell_lapsed(lapsed_before)
        return True

    def _key_is_back(self) -> bool:
        return self.key_fault is not None and self._key_ring() not in {None, self._useless_ring}

    def _key_ring(self) -> KeyRing | None:
        try:
            return self._store.key_ring()
        except KeyFileError:
            return None

    def announce(self) -> None:
        """Log what recognizes, how well, and what it cannot use."""
        bundle = self._pipeline.bundle
        log.info("model %s, %s", self.gallery.model_id, explain_accuracy(bundle))
        log.info("gallery: %s", self.describe())
        guarded, pad = describe_pad(self._config, self.recognizer.pad)
        log.log(logging.INFO if guarded else logging.WARNING, "presentation attack detection: %s", pad)
        self._tell_foreign()
        self._tell_lapsed(frozenset())

    def describe(self) -> str:
        """Size and threshold in words."""
        return f"{len(self.gallery)} subjects, {self.gallery.template_count} templates; {self.threshold_source}"

    @property
    def model_problem(self) -> str | None:
        """That another bundle stands in for the one that is asked for, and for whom that is of no use."""
        if not self._stands_in:
            return None
        lost = f"{self._unrecognized} of {self._recognized + self._unrecognized} subjects cannot be recognized"
        return f"{self.gallery.model_id} stands in for the bundle that is asked for: {lost}; see `kiosk check`"

    def _explain_threshold(self) -> str:
        return explain_threshold(self._config, self._pipeline.bundle, self.gallery)

    def _tell_foreign(self) -> None:
        """Who cannot be recognized, whenever that has changed."""
        readiness = Readiness.of(self.gallery.model_id, self._store.subject_models())
        self._recognized, self._unrecognized = len(readiness.recognized), len(readiness.unrecognized)
        foreign = describe_foreign(readiness)
        if foreign != self._foreign and foreign is not None:
            log.warning("%s", foreign)
        self._foreign = foreign

    def _tell_lapsed(self, before: frozenset[SubjectId]) -> None:
        """Whose consent has ended, once."""
        lapsed = self.gallery.lapsed - before
        if lapsed:
            log.warning(
                "not recognized any more, for the consent has ended: %s; `kiosk subjects consent` renews it, "
                "`kiosk subjects remove --due` erases",
                ", ".join(sorted(lapsed)),
            )

    def _consent_has_ended(self) -> bool:
        """Whether a day has begun on which others may be recognized than yesterday."""
        today = self._today()
        if today is None or today == self._day:
            return False
        changed = self._store.lapsed(today) != self.gallery.lapsed
        self._day = today
        return changed

    def _today(self) -> date | None:
        """The date by a clock that was set; while it is not (any more), the last one known."""
        return SystemClock().trusted_date(self._config.device.timezone) or self._day

    def _load(self) -> Gallery:
        """What is stored. While the key of the templates cannot be had: what of the present gallery may still be used,
        at the start nobody; they are tried again.
        """
        self._day = self._today()
        try:
            gallery = self._store.gallery(self.gallery.model_id, today=self._day)
        except KeyFileError as error:
            gallery, self._useless_ring = self._still_valid(), self._key_ring()
            if str(error) != self.key_fault:
                who = f"only {len(gallery)} subjects loaded before are" if len(gallery) else "nobody is"
                log.error("%s recognized: %s", who, error)  # noqa: TRY400 - told in one line
            self.key_fault, self.key_problem = str(error), _describe_key_fault(error)
        else:
            self.key_fault = self.key_problem = None
        return gallery

    def _still_valid(self) -> Gallery:
        """The present gallery without who was erased or whose consent has ended since."""
        model_id, today = self.gallery.model_id, self._day
        enrolled = {subject for subject, models in self._store.subject_models().items() if model_id in models}
        lapsed = self.gallery.lapsed if today is None else self._store.lapsed(today)
        return self.gallery.restricted(enrolled, lapsed=lapsed)


def _describe_key_fault(error: KeyFileError) -> str:
    """In numbers, without whose templates they are."""
    if not isinstance(error, RefusedTemplatesError):
        return str(error)
    return f"no template can be decrypted (subjects: {error.subjects}); see `kiosk check`"


@dataclass(frozen=True, slots=True)
class Retention:
    """How long what is kept, days."""

    attendance_days: int
    rejected_days: int


class SecondWay:
    """The desk that judges codes, and where they come from: a reader, the camera, or both."""

    def __init__(self, desk: CodeDesk, reader: CodeReader | None, badges: BadgeFinder | None) -> None:
        self.desk = desk
        self._reader = reader
        self._badges = badges

    @property
    def reader_fault(self) -> str | None:
        """Why the reader brings nothing at the moment."""
        return None if self._reader is None else self._reader.condition.fault

    def look(self, frame: Frame) -> None:
        """Have a badge in the picture judged, beside the loop: that takes longer than a frame may."""
        token = None if self._badges is None else self._badges.find(frame.image, frame.captured_s)
        if token is not None:
            threading.Thread(target=self.desk.hear, args=(token,), name="badge", daemon=True).start()


class Daemon:
    """The loop: newest frame, recognition, attendance; and the little housekeeping between frames."""

    def __init__(
        self,
        *,
        camera: Camera,
        watcher: GalleryWatcher,
        book: AttendanceBook,
        store: Store,
        notifier: Notifier,
        heartbeat: Heartbeat,
        retention: Retention,
        wake: threading.Event,
        codes: SecondWay | None = None,
        preview: Preview,
        on_ready: Callable[[], None] = lambda: None,
        feedback: Feedback | None = None,
        panel: Panel | None = None,
        attention: Attention | None = None,
        back_off: BackOff | None = None,
    ) -> None:
        self._camera = camera
        self._on_ready = on_ready
        self._watcher = watcher
        self._store = store
        self._notifier = notifier
        self._heartbeat = heartbeat
        self._retention = retention
        self._wake = wake
        self._codes = codes
        self._preview = preview
        self._feedback = feedback
        self._panel = panel
        self._attention = attention or Attention(after_s=None)
        self._took_s = 0.0
        self._looks = 0
        self._clock = SystemClock()
        self._fault: str | None = None
        self._reader_fault: str | None = None
        self._store_fault: str | None = None
        self._unsent = Unsent()
        self._kept_seqs: tuple[int | None, int | None] = None, None
        self._newest_at: str | None = None
        self._frame_times = FrameTimes()
        self._health: HealthReporter | None = None
        self._connected: Callable[[], bool | None] = lambda: None
        self._told_s: dict[str, float] = {}
        self._ready = False
        self._doubtful = False
        self._attempts = 0
        self._next_look_s = 0.0
        self._next_housekeeping_s = 0.0
        self._next_health_s = 0.0
        self.board = Board()
        self._back_off = back_off or BackOff(self.board.too_hot)
        self.book = book
        self.frames = 0

    def report_health(
        self, site: str, device: str, publisher: Publisher | None, *, wanted: threading.Event | None = None
    ) -> None:
        """Tell from now on how this kiosk is: whoever asks, and the broker, where there is one; as soon as ``wanted``
        is set, too.
        """
        started_s = time.monotonic()

        def describe(problems: list[Problem], aside: bool) -> Health:
            return Health(
                site=site,
                device=device,
                at=events.utc_text(self._clock.utc_ms()),
                uptime_s=1 + int(time.monotonic() - started_s),
                problems=problems,
                frames=self._frame_times.summarize(aside=aside, idle=self._attention.idle),
                camera=self._camera_health(),
                store=self._store_health(),
                outbox=self._outbox_health(),
                clock_synchronized=self._clock.synchronized(),
                decisions={**self.book.counts, **({} if self._codes is None else self._codes.desk.counts)},
                last_event_at=self._last_event_at(),
                temperature_c=self.board.temperature_c,
                board=BoardHealth(**asdict(self.board.condition())),
            )

        def publish(health: Health) -> None:
            if publisher is not None:
                publisher.offer(events.HEALTH, health.payload())

        if publisher is not None:
            self._connected = lambda: publisher.connected

        self._health = HealthReporter(describe, publish, wanted)

    def _last_event_at(self) -> str | None:
        with suppress(KioskError):
            newest = self._store.newest()
            self._newest_at = None if newest is None else newest.occurred_at
        return self._newest_at

    def _camera_health(self) -> CameraHealth:
        condition = self._camera.condition
        age_s = condition.last_frame_age_s
        return CameraHealth(
            fault=condition.fault,
            reconnects=condition.reconnects,
            stalls=condition.stalls,
            last_frame_age_s=None if age_s is None else round(age_s, 1),
        )

    def _store_health(self) -> StoreHealth:
        condition = self._store.condition()
        return StoreHealth(
            fault=condition.fault,
            free_mib=condition.free_mib,
            last_backup_at=condition.last_backup_at,
            restored=condition.restored,
        )

    def _outbox_health(self) -> OutboxHealth:
        """As it was last known, where the store cannot be read."""
        with suppress(KioskError):
            self._kept_seqs = self._store.kept_from_seq(), self._store.last_seq()
        return OutboxHealth(
            pending=self._unsent.pending,
            parked=self._unsent.parked,
            oldest_unsent_at=self._unsent.oldest_at,
            kept_from_seq=self._kept_seqs[0],
            last_seq=self._kept_seqs[1],
        )

    def watch(self, stopping: threading.Event) -> None:
        """Work until told to stop, or until a finite source has come to its end."""
        while not stopping.is_set():
            self._keep_house()
            self._take_codes()
            if self._preview.looks != self._looks:
                self._looks = self._preview.looks
                self._attention.rouse(self._clock.boottime_s())
            try:
                frame = self._camera.read(_READ_TIMEOUT_S)
            except EndOfStream:
                return
            condition = self._camera.condition
            self._note_fault(condition.fault if frame is None else None)
            if frame is not None:
                self._process(frame)
            self._give_signs_of_life(condition.attempts)

    def _process(self, frame: Frame) -> None:
        began_s = time.perf_counter()
        self._attention.rest(frame.captured_s + self._back_off.pause_s(self._took_s))
        reports = self._watcher.recognizer.process(frame)
        self._attention.saw((report.track_id for report in reports), frame.captured_s)
        for report in reports:
            self.book.consider(
                report,
                gallery=self._watcher.gallery,
                captured_s=frame.captured_s,
                threshold_source=self._watcher.threshold_source,
            )
        if self._feedback is not None:
            self._feedback.show(reports)
        if self._codes is not None:
            self._codes.look(frame)
        if self._preview.watched:
            self._preview.show(frame, reports)
        self._took_s = time.perf_counter() - began_s
        self._frame_times.note(self._took_s)
        self.frames += 1
        self._heartbeat.beat(_RECOGNITION)
        if self.frames == 1:
            self._get_ready()
            self._tell_status()

    def _take_codes(self) -> None:
        if self._codes is None:
            return
        for answer in self._codes.desk.take():
            self.book.consider_code(answer)
        fault = self._codes.reader_fault
        if fault != self._reader_fault:
            self._reader_fault = fault
            if fault is None:
                self._tell(logging.INFO, "the code reader is back")
            else:
                self._tell(logging.WARNING, f"no codes: {fault}")
            self._tell_status()

    def _give_signs_of_life(self, attempts: int) -> None:
        """Only what has been achieved counts.

        A processed frame does. Without one there must be a fault that is told, and a capture that keeps trying: a
        camera that is away is no reason to restart the kiosk, a capture that hangs is.
        """
        if attempts != self._attempts:
            self._attempts = attempts
            self._heartbeat.beat(_CAPTURE)
        if self._fault is not None:
            self._heartbeat.beat(_RECOGNITION)
        self._notifier.watchdog(self._heartbeat)

    def _get_ready(self) -> None:
        """Up is who has processed a frame or can say why there is none: a dark room must not hold up the start."""
        if not self._ready:
            self._ready = True
            self._on_ready()
            self._notifier.ready()

    def _note_fault(self, fault: str | None) -> None:
        if fault == self._fault:
            return
        self._fault = fault
        self._preview.tell_fault(fault)
        if fault is None:
            self._tell(logging.INFO, "pictures are back")
        else:
            self._tell(logging.WARNING, f"no pictures: {fault}")
            self._get_ready()
        self._tell_status()

    def _tell_status(self) -> None:
        what = f"watching; {self._watcher.describe()}" if self._fault is None else f"no pictures: {self._fault}"
        self._notifier.status(what if self._reader_fault is None else f"{what}; no codes: {self._reader_fault}")

    def _tell(self, level: int, text: str) -> None:
        """A camera that comes and goes all the time must not fill the log: the same words once a minute."""
        now_s = time.monotonic()
        self._told_s = {told: when_s for told, when_s in self._told_s.items() if now_s - when_s < _REPEAT_S}
        if text in self._told_s:
            level = logging.DEBUG
        else:
            self._told_s[text] = now_s
        log.log(level, "%s", text)

    def _keep_house(self) -> None:
        if self._store.damaged:
            raise StoreError(f"{self._store.path}: the store is damaged; the next start restores the newest backup")
        now_s = time.monotonic()
        if now_s >= self._next_look_s:
            healthy = self._try_store(self._look_at_store)
            self._next_look_s = now_s + (_FOLLOW_STORE_S if healthy else 10 * _FOLLOW_STORE_S)
            # Under a time that is not corrected yet what is new looks old.
            if healthy and now_s >= self._next_housekeeping_s:
                self._next_housekeeping_s = now_s + _HOUSEKEEPING_S
                self._try_store(self._prune)
        if self._health is not None and now_s >= self._next_health_s:
            self._next_health_s = now_s + _LOOK_FOR_PROBLEMS_S
            self._back_off.follow(now_s)
            problems = self._problems()
            if self._feedback is not None:
                self._feedback.tell_problems(problems)
            self._health.follow(problems)
            if self._preview.health_wanted:
                self._preview.tell_health(
                    self._health.answer(problems), self._health.history, connected=self._connected()
                )

    def _try_store(self, work: Callable[[], None]) -> bool:
        """The gallery in memory still recognizes; a store that recovers is used again."""
        try:
            work()
        except KioskError as error:
            if str(error) != self._store_fault:
                log.error("store: %s", error)  # noqa: TRY400 - told in one line
            self._store_fault = str(error)
            return False
        self._store_fault = None
        return True

    def _look_at_store(self) -> None:
        written_by_others = self._watcher.follow()
        corrected = self.book.follow_clock()
        # Whoever wrote may have put something back into the outbox.
        if written_by_others or corrected:
            self._wake.set()

    def _problems(self) -> list[Problem]:
        """What is wrong at the moment."""
        problems: list[Problem] = []
        if self._fault is not None:
            problems.append(Problem(part="camera", what=self._fault))
        code_fault = self._reader_fault or (None if self._codes is None else self._codes.desk.fault)
        if code_fault is not None:
            problems.append(Problem(part="reader", what=code_fault))
        if self._watcher.model_problem is not None:
            problems.append(Problem(part="model", what=self._watcher.model_problem))
        with suppress(KioskError):
            self._unsent = self._store.unsent()
        store_fault = self._store_fault or self._watcher.key_problem or self._store.condition().fault or self.book.fault
        if store_fault is not None:
            problems.append(Problem(part="store", what=store_fault))
        if self._unsent.parked:
            what = f"{self._unsent.parked} events are set aside; see `kiosk outbox list`"
            problems.append(Problem(part="outbox", what=what))
        if self._unsent.pending and self._unsent.last_error is not None:
            what = f"{self._unsent.pending} events wait: {self._unsent.last_error}"
            problems.append(Problem(part="outbox", what=what))
        if self._panel is not None and self._panel.fault is not None:
            problems.append(Problem(part="feedback", what=self._panel.fault))
        if not self._clock.synchronized():
            problems.append(Problem(part="clock", what="not known to follow a time server"))
        problems += [Problem(part="board", what=what) for what in self._board_problems()]
        return problems

    def _board_problems(self) -> Iterator[str]:
        """Of heat what is done about it, too."""
        heat = self._back_off.problem or self.board.heat_problem()
        yield from (problem for problem in (self.board.power_problem(), heat) if problem is not None)
        yield from self.board.storage_problems()

    def _prune(self) -> None:
        """Under a clock nobody has set, or one that has leapt, what looks old may be new."""
        retention, now_ms = self._retention, self._clock.utc_ms()
        believed = self._clock.synchronized() and not self._doubts_clock(now_ms)
        if believed or retention.rejected_days == 0:
            self._store.prune_rejections(retention.rejected_days, now_ms=now_ms)
        if not believed:
            return
        deleted = self._store.prune(retention.attendance_days, now_ms=now_ms)
        if deleted:
            log.info("%s events older than %s days deleted", deleted, retention.attendance_days)

    def _doubts_clock(self, now_ms: int) -> bool:
        leap = self._store.doubt(now_ms)
        if leap is not None and not self._doubtful:
            log.warning(
                "the clock is %s days ahead of when it was last believed; nothing is deleted for its age until it has "
                "gone on like that for a week (a wrong time? `date`, `timedatectl`)",
                leap.days,
            )
        self._doubtful = leap is not None
        return self._doubtful


@contextmanager
def _model_start(config: Config) -> Iterator[ModelStart]:
    with model_start(
        config.model.bundle,
        models_folder(config),
        threads=config.model.threads,
        runtime=config.model.runtime,
        require=lambda bundle, asked: check_stand_in(config, bundle, asked),
    ) as start:
        if start.unfinished:
            # The other models of the process, whatever they have survived: a broken guard is told, never left out.
            build_pad(config, again=True)
        yield start


def _tell_stand_in(start: ModelStart, watcher: GalleryWatcher, store: Store) -> None:
    """What the kiosk goes on with instead of the bundle that is asked for; once in the audit log, too."""
    if start.why is None:
        return
    if start.unwanted:
        log.error("%s; why: %s", watcher.model_problem, start.why)
    else:
        log.info("%s", start.why)
    if not start.gone_back:
        return
    try:
        with store.log_model(Action.ROLLBACK_MODEL, {"model": start.bundle.model_id, "why": start.why}):
            pass
    except KioskError as error:
        log.error("going back not noted in the audit log: %s", error)  # noqa: TRY400 - told in one line


def open_configured_camera(config: Config, attention: Attention | None = None) -> Camera:
    """Open the source ``camera`` describes; ``attention``: which of its pictures are worth being decoded.

    Raises:
        CameraError: it cannot be opened.
    """
    camera, pi = config.camera, config.camera.picamera2
    return open_camera(
        source=camera.source,
        width=camera.width,
        height=camera.height,
        fps=camera.fps,
        rotate=camera.rotate,
        loop=camera.loop,
        pace=camera.pace,
        open_timeout_s=camera.open_timeout_s,
        read_timeout_s=camera.read_timeout_s,
        frozen_after_s=camera.frozen_after_s,
        picamera2=Picamera2Settings(
            focus_m=None if pi.focus == "auto" else pi.focus,
            exposure=pi.exposure,
            ev=pi.ev,
            longest_exposure_ms=pi.longest_exposure_ms,
        ),
        attention=attention,
    )


def open_store_verified(config: Config, signer: EventSigner | None) -> Store:
    """The store, after a look at all of it; restored from a backup if it must be. ``signer``: of its events.

    Raises:
        StoreError: it is damaged and no backup is good; or it cannot be opened.
    """
    store = Store.open(
        Path(config.store.path),
        verified=True,
        limits=store_limits(config),
        keys=KeyFile.configured(config.store),
        signer=signer,
        backs_up=config.store.backups.keep > 0,
    )
    if store.created:
        log.info("a new store was begun: %s", store.path)
    return store


def store_limits(config: Config) -> Limits:
    """When check-ins are refused."""
    return Limits(config.store.min_free_mib, config.store.max_unsent)


def _start_keeper(stack: ExitStack, config: Config, store: Store) -> None:
    backups = config.store.backups
    keeper = BackupKeeper(store, every_h=backups.every_h, keep=backups.keep)
    keeper.start()
    stack.callback(keeper.stop)


def _note_settings(config: Config, pipeline: Pipeline, store: Store) -> None:
    """Have the audit log tell what decides from now on. On a full disk the next start does: the door stays open."""
    settings, before = noted_settings(config, store.signer), {}
    try:
        before = store.note_settings(settings, pipeline.embedder.model_id)
    except KioskError as error:
        log.error("settings not noted in the audit log: %s", error)  # noqa: TRY400 - told in one line
    _tell_signing(before.get(_SIGNING_KEY), settings[_SIGNING_KEY])


def _settle_names(config: Config, store: Store) -> None:
    """Have events hold names only while those may leave the device. Where this fails they are not sent all the same."""
    allowed = config.mqtt.include_names
    try:
        changed = store.settle_event_names(allowed=allowed)
    except KioskError as error:
        log.error("names in events not brought up to date: %s", error)  # noqa: TRY400 - told in one line
        return
    if changed:
        log.info("names %s in %s events", "brought up to date" if allowed else "erased", changed)


def noted_settings(config: Config, signer: EventSigner | None) -> dict[str, Any]:
    """The configuration by dotted name, for the audit log. Without what may hold a secret.

    Whether events are signed need not stand in it, for the key may be a credential: so its fingerprint is there, too.
    """
    signing = None if signer is None else signer.fingerprint()
    return dict(_flatten(config)) | {"camera.source": shown_source(config.camera.source), _SIGNING_KEY: signing}


def _tell_signing(before: str | None, now: str | None) -> None:
    """With which key events are signed; whether that is another one than at the start before, or none any more."""
    if now is None:
        if before is not None:
            log.warning("events are not signed any more; until this start they were, with the key %s", before)
    elif before in {None, now}:
        log.info("events are signed with the key %s", now)
    else:
        log.warning("events are signed with another key, %s, than until this start, %s", now, before)


def _flatten(section: BaseModel, prefix: str = "") -> Iterator[tuple[str, Any]]:
    plain = section.model_dump(mode="json")
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            yield from _flatten(value, f"{prefix}{name}.")
        elif field.repr:
            yield f"{prefix}{name}", plain[name]


def broker_settings(config: Config) -> BrokerSettings:
    """Where and as whom to connect.

    Raises:
        ConfigError: to another machine without TLS. Commands that connect to nobody never ask.
    """
    mqtt = config.mqtt
    if mqtt.tls is None and not (mqtt.allow_plaintext or is_loopback(mqtt.host)):
        raise ConfigError(
            f"mqtt.host: {mqtt.host} is another machine and TLS is off, so that anybody on the network could read who "
            "comes and goes; add a mqtt.tls section, or set mqtt.allow_plaintext: true"
        )
    tls = None if mqtt.tls is None else Tls(mqtt.tls.ca_file, mqtt.tls.cert_file, mqtt.tls.key_file)
    password_file = mqtt.password_file or find_credential(_PASSWORD_CREDENTIAL)
    return BrokerSettings(mqtt.host, mqtt.port, mqtt.username, password_file, tls, mqtt.allow_plaintext)


def event_signer(config: Config) -> EventSigner | None:
    """Who signs the events; None: they are not signed.

    Raises:
        ConfigError: the key cannot be used.
    """
    return find_signer(config.mqtt.sign_key_file)


def _start_publisher(
    stack: ExitStack,
    config: Config,
    connection: BrokerSettings,
    *,
    store: Store,
    watcher: GalleryWatcher,
    wake: threading.Event,
    greeted: threading.Event,
    heartbeat: Heartbeat,
) -> Publisher:
    topics = Topics(config.mqtt.topic_root, config.device.site, config.device.id)
    info = _info(config, watcher, signed=store.signer is not None)
    births, once = [(topics.info, info.encode())], []
    if config.mqtt.home_assistant:
        document = discovery_document(topics, version=__version__, board=info.board)
        births.append((topics.discovery, events.encode(document)))
    else:
        # An earlier start may have left one, which the broker keeps; an empty one takes it away.
        once.append((topics.discovery, b""))
    broker = MqttBroker(connection, topics, births=tuple(births), once=tuple(once), on_change=wake.set)
    if config.mqtt.home_assistant:
        broker.answer_greeting(GREETING_TOPIC, GREETING, greeted.set)
    publisher = Publisher(
        store,
        broker,
        wake=wake,
        clock=SystemClock(),
        beat=lambda: heartbeat.beat(_PUBLISHER),
        include_names=config.mqtt.include_names,
    )
    broker.hear_replays(publisher.obey)
    broker.start()
    stack.callback(broker.stop)
    publisher.start()
    stack.callback(publisher.stop)
    return publisher


def _info(config: Config, watcher: GalleryWatcher, *, signed: bool) -> Info:
    return Info(
        site=config.device.site,
        device=config.device.id,
        version=__version__,
        model=watcher.gallery.model_id,
        timezone=config.device.timezone,
        board=Board().model,
        started_at=events.utc_text(SystemClock().utc_ms()),
        capabilities=[
            "attendance",
            "replay",
            "health",
            *(["rejected"] if config.mqtt.rejected_events else []),
            *(["signatures"] if signed else []),
            *(["code"] if config.code.reader is not None or config.code.camera else []),
        ],
    )


def _open_preview(stack: ExitStack, config: Config) -> Preview:
    """What others may look at. A door does without."""
    preview = Preview(socket_path(Path(config.store.path)))
    try:
        preview.start()
    except KioskError as error:
        log.warning("no preview, and no enrollment with this camera: %s", error)
    else:
        stack.callback(preview.stop)
    return preview


def _open_panel(stack: ExitStack, config: Config, watcher: GalleryWatcher) -> tuple[Feedback | None, Panel | None]:
    """Lights, buzzer and relay, where there are any. Without them check-ins go on."""
    plan = config.feedback.plan()
    if plan is None:
        return None, None
    guarded, pad = describe_pad(config, watcher.recognizer.pad)
    relay = describe_relay(plan, guarded=guarded, pad=pad)
    if relay is not None:
        log.log(logging.INFO if relay[0] else logging.WARNING, "%s", relay[1])
    feedback = Feedback(plan, guarded=guarded)
    panel = Panel(plan, feedback.at, on_return=feedback.forget_pulse)
    feedback.on_change = panel.wake
    panel.start()
    stack.callback(panel.stop)
    return feedback, panel


def _open_book(
    config: Config,
    store: Store,
    publisher: Publisher | None,
    wake: threading.Event,
    preview: Preview,
    *,
    door: Feedback | None,
) -> AttendanceBook:
    clock = SystemClock()
    origin = Origin(config.device.site, config.device.id, config.device.timezone)

    def tell_check_in(event: AttendanceEvent) -> None:
        wake.set()
        preview.tell_outcome(event)
        how = "by code" if event.match is None else f"score {event.match.score:.3f}"
        extra = fields(event=event.event_type, seq=event.seq, event_id=event.event_id)
        log.info("%s of %s (event %s, %s)", event.event_type, event.subject.id, event.seq, how, extra=extra)

    def tell_rejected(event: RejectedEvent) -> None:
        preview.tell_outcome(event)
        score = "" if event.score is None else f", best score {event.score:.3f}"
        if event.score is not None and event.threshold is not None and event.score < event.threshold:
            score += f", {event.threshold:.3f} needed"
        extra = fields(event=event.event_type, event_id=event.event_id)
        log.info("no check-in: %s%s (event %s)", event.reason, score, event.event_id, extra=extra)
        if publisher is not None and config.mqtt.rejected_events:
            payload = event.payload()
            publisher.offer(events.REJECTED, payload if store.signer is None else store.signer.sign(payload))

    return AttendanceBook(
        store,
        AttendanceSettings(
            origin,
            config.attendance.mode,
            outbox=config.mqtt.enabled,
            include_name=config.mqtt.include_names,
            keep_rejections=config.store.rejected_days > 0,
            windows=tuple(section.window() for section in config.attendance.schedule),
            outside=config.attendance.outside,
        ),
        clock=clock,
        boot_id=clock.boot_id(),
        refractory=_recent_check_ins(config.match.refractory_s, store, clock),
        on_check_in=tell_check_in,
        on_rejected=tell_rejected,
        door=door,
    )


def _open_codes(stack: ExitStack, config: Config, store: Store) -> SecondWay | None:
    """The second way in, where there is one."""
    if config.code.reader is None and not config.code.camera:
        return None
    clock = SystemClock()
    desk = CodeDesk(store, clock=clock, boot_id=clock.boot_id())
    desk.open()
    reader = None if config.code.reader is None else CodeReader(config.code.reader, desk.hear)
    if reader is not None:
        reader.start()
        stack.callback(reader.stop)
    return SecondWay(desk, reader, BadgeFinder() if config.code.camera else None)


def _recent_check_ins(period_s: float, store: Store, clock: SystemClock) -> RefractoryPeriod:
    """Check-ins of just before a restart still count: nobody is reported twice for one visit."""
    refractory = RefractoryPeriod(period_s)
    now_s, boot_id = clock.boottime_s(), clock.boot_id()
    for subject in store.subjects():
        last = store.last_recorded(subject.id)
        if last is not None and boot_id and last.boot_id == boot_id and last.boottime_ms / 1000 <= now_s:
            refractory.note(subject.id, last.boottime_ms / 1000)
    return refractory


def _drain(publisher: Publisher, stopping: threading.Event) -> bool:
    """Wait for the outbox to empty: for a while after the end of a file, shorter once told to stop."""
    deadline_s = time.monotonic() + _DRAIN_AT_END_S
    told = False
    while not stopping.is_set() and time.monotonic() < deadline_s:
        if publisher.drain(_LOOK_UP_S):
            return True
        if not told:
            log.info("waiting up to %.0f s for the outbox to empty (Ctrl-C ends)", _DRAIN_AT_END_S)
            told = True
        stopping.wait(_LOOK_UP_S)
    return stopping.is_set() and publisher.drain(_DRAIN_ON_STOP_S)


def _finish(publisher: Publisher | None, store: Store, stopping: threading.Event) -> None:
    """Send what can be sent in the time there is."""
    if publisher is not None and not _drain(publisher, stopping):
        waiting = store.outbox_counts().pending
        log.warning("%s events wait in the outbox; the next start sends them", waiting)


def _describe_outcome(daemon: Daemon, config: Config, *, at_end: bool) -> str:
    """How often what was decided; of a clip that was too short for it (``at_end``), what it takes."""
    counts = ", ".join(f"{name} {count}" for name, count in sorted(daemon.book.counts.items()))
    if counts or not at_end:
        return counts or "no decision"
    match = config.match
    return (
        f"no decision; a check-in takes {match.frames} frames that show one face in one place (match.frames), "
        f"a stranger's face is told after {match.window_s:g} s (match.window_s); `kiosk identify` takes single photos"
    )


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """SIGTERM and SIGINT ask for an orderly end: the frame in hand is finished first."""
    stopping = threading.Event()
    before = {number: signal.signal(number, lambda *_: stopping.set()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
