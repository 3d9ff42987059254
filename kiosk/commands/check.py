"""``kiosk check``: the doctor. Every part is tried for real; each gets one line."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from zoneinfo import ZoneInfo

import click

from kiosk.biometrics import ModelId
from kiosk.board import Board
from kiosk.bundle import Bundle
from kiosk.bundle_choice import choose_bundle
from kiosk.camera import shown_source
from kiosk.clock import SystemClock
from kiosk.code_reader import open_device
from kiosk.codes import StoredCode
from kiosk.commands.computer import ask_daemon, judge_heat, judge_power, judge_storage
from kiosk.commands.erasure import describe_due
from kiosk.commands.options import common_options, count, json_option, load, print_json, some
from kiosk.commands.stores import find_daemon, open_store
from kiosk.commands.web_settings import bind, web_settings
from kiosk.config import Config, find_file
from kiosk.daemon import broker_settings, event_signer, open_configured_camera, store_limits
from kiosk.errors import (
    BrokerError,
    CameraError,
    ConfigError,
    GpioError,
    KeyFileError,
    KioskError,
    PermissionDeniedError,
    StoreError,
)
from kiosk.events import HEALTH, Topics, utc_text
from kiosk.feedback import describe_relay
from kiosk.gallery import Readiness
from kiosk.gpio import Pins
from kiosk.health import trial_health
from kiosk.hosts import is_loopback
from kiosk.mqtt import BrokerSettings, check_broker
from kiosk.pipeline import (
    build_detector,
    build_embedder,
    build_pad,
    check_stand_in,
    check_threshold,
    describe_foreign,
    describe_kept,
    describe_pad,
    explain_accuracy,
    explain_threshold,
    models_folder,
)
from kiosk.ports import EndOfStream
from kiosk.signs import Plan
from kiosk.store import Store, Subject, describe_damage, describe_refused

_FIRST_FRAME_S = 5.0
_TELL_RESTORE_DAYS = 30
_TELL_CONSENT_DAYS = 30


class Status(StrEnum):
    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """What is known of one part. ``exit_code``: what the command ends with if this is what stands in the way."""

    name: str
    status: Status
    message: str
    exit_code: int = 0


@click.command("check")
@json_option
@common_options
@click.pass_context
def command(ctx: click.Context, *, as_json: bool, config_path: Path | None, verbose: int) -> None:
    """Check that the kiosk would run; say what to mend.

    Tries config, model, detector, camera, key (of the templates), store, backups, outbox, broker, clock, pad
    (presentation attack detection), code (the second way in), web (the page), and of the computer itself power, heat
    and storage (space, errors, wear), one line each; of disk, restore, consent, erasure (who is due) and feedback
    (lights, buzzer, relay) it tells where there is something to tell. Exit code 0: the kiosk would run and the broker
    takes what it says: it gets a health document that tells what it is for, and no event. Warnings do not count
    against it: events that wait are one.
    """
    findings = list(_examine(config_path, verbose))
    failed = [finding for finding in findings if finding.status is Status.FAIL]
    if as_json:
        print_json({"ok": not failed, "checks": [_document(finding) for finding in findings]})
    else:
        for finding in findings:
            click.echo(f"{finding.status.upper():<4}  {finding.name:<9}  {finding.message}")
    if failed:
        click.echo(f"kiosk: not ready: {', '.join(dict.fromkeys(finding.name for finding in failed))} failed", err=True)
        ctx.exit(failed[0].exit_code)


def _examine(config_path: Path | None, verbose: int) -> Iterator[Finding]:
    try:
        config = load(config_path, verbose)
    except ConfigError as error:
        for problem in str(error).splitlines():
            yield Finding("config", Status.FAIL, problem, error.exit_code)
        return
    yield from examine(config, source=find_file(config_path, os.environ))


def examine(config: Config, *, source: Path | None) -> Iterator[Finding]:
    """Everything that ``kiosk check`` tries with a configuration that can be read; ``source``: its file, if any."""
    device = config.device
    file = "no file, defaults" if source is None else source
    yield Finding("config", Status.OK, f"{device.site}/{device.id}, time zone {device.timezone} ({file})")
    doctor = Doctor(config)
    for name, probe in doctor.probes().items():
        try:
            yield from probe()
        except KioskError as error:
            yield Finding(name, Status.FAIL, str(error), error.exit_code)
        except PermissionError as error:
            message = f"{error.filename}: permission denied; run as the user who owns it"
            yield Finding(name, Status.FAIL, message, PermissionDeniedError.exit_code)


class Doctor:
    """Tries the parts of one configuration, in the order the daemon needs them."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._bundle: Bundle | None = None
        self._model_id: ModelId | None = None

    def probes(self) -> dict[str, Callable[[], Iterator[Finding]]]:
        """By name. A probe raises KioskError for what stands in the daemon's way."""
        return {
            "model": self._check_model,
            "detector": self._check_detector,
            "camera": self._check_camera,
            "store": self._check_store,
            "broker": self._check_broker,
            "clock": self._check_clock,
            "pad": self._check_pad,
            "code": self._check_code,
            "web": self._check_web,
            "feedback": self._check_feedback,
            "computer": self._check_computer,
        }

    def _check_model(self) -> Iterator[Finding]:
        choice = choose_bundle(self._config.model.bundle, models_folder(self._config))
        bundle = choice.bundle
        if choice.unwanted:
            check_stand_in(self._config, bundle, choice.asked)
        else:
            check_threshold(self._config, bundle)
        self._model_id = build_embedder(self._config, bundle).model_id
        self._bundle = bundle
        measured = bundle.manifest.accuracy is not None and bool(bundle.manifest.thresholds)
        where = "built in" if bundle.built_in else f"in {bundle.folder}"
        message = f"{self._model_id} ({where}), {explain_accuracy(bundle)}"
        if choice.why is not None:
            message += (
                f"; it {'STANDS' if choice.unwanted else 'stands'} in for the one that is asked for: {choice.why}"
            )
        daemon = find_daemon(self._config)
        outdated = daemon is not None and daemon.model_id not in {None, self._model_id}
        if daemon is not None and outdated:
            message += f"; the running kiosk (process {daemon.process}) still uses {daemon.model_id}: restart it"
        yield Finding("model", Status.OK if measured and not outdated and not choice.unwanted else Status.WARN, message)

    def _check_detector(self) -> Iterator[Finding]:
        build_detector(self._config)
        yield Finding("detector", Status.OK, self._config.face.detector)

    def _check_camera(self) -> Iterator[Finding]:
        try:
            message = _try_camera(self._config)
        except CameraError:
            if not (_is_local_device(self._config.camera.source) and find_daemon(self._config) is not None):
                raise
            message = "in use by the running kiosk"
        yield Finding("camera", Status.OK, message)

    def _check_store(self) -> Iterator[Finding]:
        path = Path(self._config.store.path)
        damage = describe_damage(path)
        if damage is not None:
            raise StoreError(damage)
        if not path.exists():
            _check_folder(path)
            yield Finding("store", Status.WARN, f"{path}: not there yet; `kiosk enroll` or `kiosk run` creates it")
            return
        if not os.access(path, os.W_OK) or not os.access(path.parent, os.W_OK):
            raise PermissionDeniedError(f"{path}: cannot be written; run as its owner, or change store.path")
        with open_store(self._config) as store:
            copied = store.copy_problem()
            if copied is not None:
                raise StoreError(copied)
            key = _describe_key(store)
            yield key
            if key.status is not Status.FAIL:
                yield self._describe_gallery(store)
            yield from self._check_durability(store)
            yield _describe_outbox(store)
            yield from _check_consent(store, self._config)

    def _describe_gallery(self, store: Store) -> Finding:
        if self._bundle is None or self._model_id is None:
            return Finding("store", Status.OK, f"{len(store.subjects())} subjects")
        gallery = store.gallery(self._model_id, today=SystemClock().trusted_date(self._config.device.timezone))
        if not len(gallery) and not store.template_models() and not store.codes():
            return Finding("store", Status.WARN, "nobody is enrolled; `kiosk enroll ID PHOTO...` enrolls")
        message = f"{len(gallery)} subjects, {explain_threshold(self._config, self._bundle, gallery)}"
        readiness = Readiness.of(self._model_id, store.subject_models())
        foreign, kept = describe_foreign(readiness), describe_kept(readiness)
        if foreign is not None:
            return Finding("store", Status.WARN, f"{message}; {foreign}")
        return Finding("store", Status.OK, message if kept is None else f"{message}; {kept}")

    def _check_durability(self, store: Store) -> Iterator[Finding]:
        """Whether check-ins would be accepted, what the last restore did, and how old the newest backup is."""
        store.limits = store_limits(self._config)
        refusal = store.refusal()
        if refusal is not None:
            yield Finding("disk", Status.FAIL, f"check-ins are refused: {refusal}", StoreError.exit_code)
        restored = store.last_restore()
        if restored is not None and _days_since(restored.at) < _TELL_RESTORE_DAYS:
            yield Finding("restore", Status.WARN, restored.describe())
        yield _describe_backups(store, self._config)

    def _check_broker(self) -> Iterator[Finding]:
        if not self._config.mqtt.enabled:
            yield Finding("broker", Status.WARN, "mqtt.enabled is false: events are stored and never sent")
            return
        settings = broker_settings(self._config)
        with _said("kiosk.credentials") as said:
            signed = event_signer(self._config) is not None
            problem = check_broker(settings, self._trial())
        for text in said:
            yield Finding("broker", Status.WARN, text)
        if problem is not None:
            raise BrokerError(problem)
        yield _describe_connection(settings, signed=signed)

    def _trial(self) -> tuple[str, bytes]:
        """A topic of this kiosk and what to say there: the broker's rules refuse it as they would an event."""
        device, clock = self._config.device, SystemClock()
        document = trial_health(
            device.site, device.id, at=utc_text(clock.utc_ms()), clock_synchronized=clock.synchronized()
        )
        return Topics(self._config.mqtt.topic_root, device.site, device.id).below(HEALTH), document.encode()

    def _check_clock(self) -> Iterator[Finding]:
        if SystemClock().synchronized():
            yield Finding("clock", Status.OK, "follows a time server")
        else:
            yield Finding(
                "clock", Status.WARN, "not known to follow a time server; events say so (check `timedatectl`)"
            )

    def _check_pad(self) -> Iterator[Finding]:
        guarded, message = describe_pad(self._config, build_pad(self._config))
        # Switched off is somebody's decision; believed to be on is none.
        intended = guarded or not self._config.pad.enabled
        yield Finding("pad", Status.OK if intended else Status.WARN, message)

    def _check_code(self) -> Iterator[Finding]:
        reader, camera = self._config.code.reader, self._config.code.camera
        if reader is None and not camera:
            yield Finding("code", Status.OK, "off (code.reader, code.camera): the face is the only way in")
            return
        if reader is not None:
            os.close(open_device(reader))
        message = " and ".join([*([] if reader is None else [f"{reader} opens"]), *(["by camera"] if camera else [])])
        codes: list[StoredCode] = []
        if Path(self._config.store.path).exists():
            with open_store(self._config) as store:
                codes = store.codes()
        spent = [code.subject_id for code in codes if code.spent]
        if not codes:
            yield Finding("code", Status.WARN, f"{message}, and nobody has a code; `kiosk subjects code ID` makes one")
        elif spent:
            message += f"; the PIN of {some(spent)} is off, too often wrong: `kiosk subjects code ID` makes a new one"
            yield Finding("code", Status.WARN, message)
        else:
            yield Finding("code", Status.OK, f"{message}; {count(len(codes), 'code')}")

    def _check_computer(self) -> Iterator[Finding]:
        board, seen = Board(), ask_daemon(self._config)
        judgements = {
            "power": judge_power(board, seen),
            "heat": judge_heat(board, seen),
            "storage": judge_storage(board, self._config),
        }
        for name, judged in judgements.items():
            yield Finding(name, Status.OK if judged.well else Status.WARN, judged.message)

    def _check_web(self) -> Iterator[Finding]:
        if not self._config.web.enabled:
            yield Finding("web", Status.OK, "off (web.enabled); `kiosk web` serves the page when it is wanted")
            return
        settings = web_settings(self._config)
        if find_daemon(self._config) is None:
            bind(settings).close()
        protected = "" if settings.password is None else ", with a password"
        unprotected = not settings.local and settings.scheme == "http"
        told = (
            f"{settings.address}{protected}{', without TLS: others on the network can read it' if unprotected else ''}"
        )
        yield Finding("web", Status.WARN if unprotected else Status.OK, told)

    def _check_feedback(self) -> Iterator[Finding]:
        plan = self._config.feedback.plan()
        if plan is None:
            return
        yield self._try_pins(plan)
        guarded, pad = describe_pad(self._config, build_pad(self._config))
        relay = describe_relay(plan, guarded=guarded, pad=pad)
        if relay is not None:
            yield Finding("feedback", Status.OK if relay[0] else Status.WARN, relay[1])

    def _try_pins(self, plan: Plan) -> Finding:
        """Whether they can be driven; check-ins go on where they cannot."""
        pins = ", ".join(f"{output} on GPIO{pin.number}" for output, pin in plan.pins.items())
        if find_daemon(self._config) is not None:
            return Finding("feedback", Status.OK, f"{pins}; in use by the running kiosk")
        try:
            Pins(plan).close()
        except GpioError as error:
            return Finding("feedback", Status.WARN, str(error))
        return Finding("feedback", Status.OK, pins)


@contextmanager
def _said(name: str) -> Iterator[list[str]]:
    """What a module would log meanwhile, for the table."""
    texts: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: texts.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger(name)
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield texts
    finally:
        logger.propagate = True
        logger.removeHandler(handler)


def _describe_connection(settings: BrokerSettings, *, signed: bool) -> Finding:
    signatures = ", events are signed" if signed else ""
    if settings.tls is None and not is_loopback(settings.host):
        message = f"{settings.address}, without TLS: others on the network can read and forge what is sent{signatures}"
        return Finding("broker", Status.WARN, message)
    tls = "" if settings.tls is None else ", TLS"
    return Finding("broker", Status.OK, f"{settings.address}{tls}{signatures}")


def _try_camera(config: Config) -> str:
    shown = shown_source(config.camera.source)
    with closing(open_configured_camera(config)) as camera:
        deadline_s = time.monotonic() + _FIRST_FRAME_S
        while time.monotonic() < deadline_s:
            try:
                frame = camera.read(_FIRST_FRAME_S)
            except EndOfStream:
                break
            if frame is not None:
                height, width = frame.image.shape[:2]
                return f"{shown}: {width} x {height} pixels"
        raise CameraError(f"{shown}: opens but delivers no picture: {camera.fault or 'no reason given'}")


def _is_local_device(source: int | str) -> bool:
    """Whether this is a camera of this machine that is there: only one program can have it at a time."""
    text = str(source)
    if text.startswith("picamera2"):
        return True
    path = Path(f"/dev/video{text}" if text.isdigit() else text)
    return path.is_relative_to("/dev") and path.exists()


def _check_folder(path: Path) -> None:
    """Whether a store can be created there: the nearest folder that exists must be writable."""
    folder = path.parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionDeniedError(
            f"{path}: cannot be created, {folder} is not writable; set store.path (KIOSK_STORE__PATH) elsewhere"
        )


def _describe_backups(store: Store, config: Config) -> Finding:
    backups, settings = store.backups.all(), config.store.backups
    if not settings.keep:
        return Finding("backups", Status.WARN, "store.backups.keep is 0: a damaged store cannot be restored")
    if not backups:
        return Finding("backups", Status.WARN, "none yet; the running kiosk takes the first one at once")
    hours = 24 * _days_since(backups[0].taken_at)
    message = f"{len(backups)}, the newest of {backups[0].taken_at} ({_age(hours)} ago)"
    late = hours > 2 * settings.every_h
    return Finding(
        "backups", Status.WARN if late else Status.OK, f"{message}; late: is the kiosk running?" if late else message
    )


def _describe_key(store: Store) -> Finding:
    """Whether the templates can be decrypted, and who else could."""
    try:
        ring = store.key_ring()
        refused = store.refused_templates()
    except KeyFileError as error:
        return Finding("key", Status.FAIL, f"nobody is recognized: {error}", error.exit_code)
    path = store.keys.path
    if ring is None:
        return Finding("key", Status.OK, f"{path}: made with the first template")
    if refused:
        return Finding("key", Status.FAIL, f"{path}: {describe_refused(refused)}", KeyFileError.exit_code)
    if store.keys.open_to_others():
        return Finding("key", Status.WARN, f"{path}: others may read it: chmod 600 {path}")
    if ring.wrapped:
        sealed = "sealed with the master key"
    elif store.keys.master_file is not None:
        sealed = f"will be sealed with {store.keys.master_file} at the next start or enrollment"
    else:
        sealed = "not sealed: who has the whole card can use it"
    changing = f"; {len(ring.keys)} keys, a running kiosk drops the old ones" if len(ring.keys) > 1 else ""
    return Finding("key", Status.OK, f"{path}: {sealed}; all templates can be decrypted{changing}")


def _check_consent(store: Store, config: Config) -> Iterator[Finding]:
    """Whose consent ends soon, who has none where it is required, who is due; nothing while all is well."""
    today = SystemClock().trusted_date(config.device.timezone)
    by_clock = datetime.now(ZoneInfo(config.device.timezone)).date()
    soon, now = (by_clock + timedelta(days=_TELL_CONSENT_DAYS)).isoformat(), by_clock.isoformat()
    subjects = store.subjects()
    ending = [s for s in subjects if s.consent_until is not None and now <= s.consent_until <= soon]
    if ending:
        yield Finding(
            "consent",
            Status.WARN,
            f"of {count(len(ending), 'subject')} ends within {_TELL_CONSENT_DAYS} days, and they are not recognized "
            f"any more then: {_consent_ends(ending)}; `kiosk subjects consent` renews it",
        )
    ended = [s for s in subjects if s.consent_until is not None and s.consent_until < now]
    if ended and today is None:
        yield Finding(
            "consent",
            Status.WARN,
            f"of {count(len(ended), 'subject')} has ended, if the clock is right: {_consent_ends(ended)}; they are "
            "recognized until it follows a time server",
        )
    without = [s.id for s in subjects if s.templates and s.consent_reference is None]
    if without and config.privacy.require_consent:
        message = f"none of {count(len(without), 'subject')} is on record: {some(without)}; `kiosk subjects consent`"
        yield Finding("consent", Status.WARN, message)
    due = [] if today is None else store.due(today, config.privacy.unseen_days)
    if due:
        who = some(f"{one.subject_id} ({describe_due(one)})" for one in due)
        yield Finding(
            "erasure",
            Status.WARN,
            f"{count(len(due), 'subject')} due: {who}; `kiosk subjects remove --due` shows and erases them",
        )


def _consent_ends(subjects: Iterable[Subject]) -> str:
    return some(f"{subject.id} on {subject.consent_until}" for subject in subjects)


def _days_since(text: str) -> float:
    return max(0.0, (datetime.now(UTC) - datetime.fromisoformat(text)).total_seconds() / 86_400)


def _age(hours: float) -> str:
    return f"{hours * 60:.0f} min" if hours < 2 else f"{hours:.0f} h" if hours < 48 else f"{hours / 24:.0f} days"


def _describe_outbox(store: Store) -> Finding:
    counts = store.outbox_counts()
    if not counts.pending and not counts.parked:
        return Finding("outbox", Status.OK, f"empty; {counts.sent} events sent")
    reason = "" if counts.last_error is None else f": {counts.last_error}"
    aside = f", {counts.parked} of them set aside (`kiosk outbox list`)" if counts.parked else ""
    waiting = count(counts.pending + counts.parked, "event")
    return Finding("outbox", Status.WARN, f"{waiting} not sent since {counts.oldest_pending_at}{aside}{reason}")


def _document(finding: Finding) -> dict[str, object]:
    return {"name": finding.name, "status": finding.status.value, "message": finding.message}
