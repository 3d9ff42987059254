"""``kiosk enroll --from-dir``: everybody in a folder, one person after another, in the order of the folders' names.

A face that two folders show belongs to the first of them. So that a run that was interrupted decides like one that was
not, people are committed one by one in that order, and what was rejected is remembered until the end is reached.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass, field, replace
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

import click
from tqdm import tqdm

from kiosk import __version__
from kiosk.biometrics import SubjectId, parse_subject_id
from kiosk.commands.enroll import Enroller, Enrollment, describe, enrollment_document, note_new_store, site_today
from kiosk.commands.enroll_memory import Memory
from kiosk.commands.options import print_json
from kiosk.commands.rejections import Rejection, Report, Totals, count_reasons, summarize
from kiosk.commands.stores import open_store
from kiosk.config import Config
from kiosk.enrollment import EnrolledPhoto, RejectedPhoto
from kiosk.errors import InputError
from kiosk.photo import hash_photo, is_photo, load_photo
from kiosk.pipeline import build_pipeline
from kiosk.store import Consent, Store


@dataclass(frozen=True, slots=True)
class Person:
    """A folder of photos whose name is a subject id."""

    subject_id: SubjectId
    paths: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class _Result:
    """What became of one person; ``enrollment`` is None where nobody is enrolled by it."""

    enrollment: Enrollment | None
    rejections: Sequence[Rejection]
    known_photos: int


@dataclass(slots=True)
class _Outcome:
    """What became of everybody so far."""

    rejections: list[Rejection]
    people: int
    people_done: int = 0
    people_enrolled: int = 0
    photos: int = 0
    new_photos: int = 0
    known_photos: int = 0
    documents: list[dict[str, object]] = field(default_factory=list)
    """For JSON only: without it memory stays flat."""

    def add(self, person: Person, result: _Result) -> None:
        self.people_done += 1
        self.photos += len(person.paths)
        self.known_photos += result.known_photos
        self.rejections += result.rejections
        if result.enrollment is not None:
            self.people_enrolled += 1
            self.new_photos += len(result.enrollment.photos)

    @property
    def totals(self) -> Totals:
        return Totals(self.people, self.people_done, self.photos, self.new_photos + self.known_photos)


def run_bulk_enrollment(
    config: Config, folder: Path, report_path: Path | None, *, force: bool, consent: Consent | None, as_json: bool
) -> None:
    """Enroll everybody in a folder; what cannot be used is told, and written to the report.

    Raises:
        InputError: nobody is there, or something could not be used.
        KeyboardInterrupt: Ctrl-C. What is done stays done and is told, as it is before SIGTERM ends the process.
    """
    people, unusable = find_people(folder)
    report = None if report_path is None else Report(report_path)
    pipeline = build_pipeline(config)
    needed_on = site_today(config) if config.privacy.require_consent else None
    # All that a verdict depends on besides photos and gallery.
    conditions = [__version__, pipeline.embedder.model_id, config.face.model_dump(mode="json"), config.match.threshold]
    outcome = _Outcome(unusable, len(people))
    stop = _Stop()
    with (
        stop,
        open_store(config, writable=True) as store,
        Memory(Path(config.store.path), [*conditions, force]) as memory,
    ):
        nobody_before = not store.subjects()
        enroller = Enroller(pipeline, store, force=force, consent=consent, consent_needed_on=needed_on)
        with _Progress(people) as progress:
            worker = _Worker(people, enroller, store, memory, consent=consent, stop=stop, advance=progress.advance)
            teller = _Teller(outcome, folder, progress, as_json=as_json, reported=report is not None)
            with suppress(_Stopped):
                _enroll_all(worker, people, outcome, teller)
        if report is not None:
            report.write(outcome.rejections, outcome.totals)
        _tell_end(outcome, folder, report, as_json=as_json)
        if outcome.totals.complete:
            memory.forget()
    if not outcome.totals.complete:
        click.echo(
            f"kiosk: interrupted after {outcome.people_done} of {len(people)} people; run the same command again, and "
            "it goes on from there",
            err=True,
        )
        stop.obey()
    _complain(outcome)
    if nobody_before:
        note_new_store(store)


def find_people(folder: Path) -> tuple[list[Person], list[Rejection]]:
    """Who is in a folder of people, by id, and the folders in it that cannot be used.

    Raises:
        InputError: it cannot be read, or there is nobody in it.
    """
    try:
        entries = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError as error:
        raise InputError(f"{folder}: cannot be read as a folder: {error.strerror}") from error
    if not entries:
        raise InputError(f"{folder}: no folders in it; put photos in {folder}/<subject_id>/")
    people: list[Person] = []
    unusable = [
        Rejection("", (path.name,), "no_folder", f"move it to {folder}/<subject_id>/")
        for path in sorted(folder.iterdir())
        if is_photo(path)
    ]
    for entry in entries:
        try:
            subject_id = parse_subject_id(entry.name)
        except InputError as error:
            unusable.append(Rejection(entry.name, (), "bad_subject_id", str(error)))
            continue
        try:
            paths = tuple(sorted(path for path in entry.iterdir() if is_photo(path)))
        except OSError as error:
            unusable.append(Rejection(entry.name, (), "unreadable", f"cannot be read as a folder: {error.strerror}"))
            continue
        if paths:
            people.append(Person(subject_id, paths))
        else:
            unusable.append(Rejection(entry.name, (), "no_photos", "no photos in it (.jpg, .png, …)"))
    return people, unusable


def _enroll_all(worker: _Worker, people: Sequence[Person], outcome: _Outcome, teller: _Teller) -> None:
    """Raises _Stopped: asked to end; the person in hand is not among the outcome's."""
    teller.tell_rejections(outcome.rejections)
    for person in people:
        result = worker.enroll(person)
        outcome.add(person, result)
        teller.tell(result)


class _Worker:
    """Looks at one person's photos after another's, unless that was done before."""

    def __init__(
        self,
        people: Sequence[Person],
        enroller: Enroller,
        store: Store,
        memory: Memory,
        *,
        consent: Consent | None,
        stop: _Stop,
        advance: Callable[[int], None],
    ) -> None:
        self._later = {person.subject_id for person in people}
        self._enroller = enroller
        self._store = store
        self._memory = memory
        self._consent = consent
        self._stop = stop
        self._advance = advance

    def enroll(self, person: Person) -> _Result:
        """Look, compare and commit; what was rejected is remembered.

        Raises:
            _Stopped: asked to end; nothing of this person is committed.
        """
        self._stop.check()
        self._later.discard(person.subject_id)
        try:
            self._enroller.check_consent(person.subject_id)
        except InputError as error:
            self._advance(len(person.paths))
            detail = str(error).removeprefix(f"{person.subject_id}: ")
            names = tuple(path.name for path in person.paths)
            return _Result(None, [Rejection(person.subject_id, names, "no_consent", detail, whole=True)], 0)
        was_known, known = self._enroller.knows(person.subject_id), self._enroller.known_hashes(person.subject_id)
        hashes = {path: _hash(path) for path in person.paths}
        named_hashes = [(path.name, sha256) for path, sha256 in hashes.items()]
        key = self._memory.key(person.subject_id, named_hashes, sorted(known.difference(hashes.values())))
        rejections = self._recall(key, {path.name for path in person.paths if hashes[path] not in known})
        if rejections is None:
            return self._enroll_new(person, hashes, known, key, was_known=was_known)
        self._advance(len(person.paths))
        known_paths = [path for path in person.paths if hashes[path] in known]
        refused = any(rejection.whole for rejection in rejections)
        enrollment = None if refused else self._admit(person, [], known_paths, was_known=was_known)
        return _Result(enrollment, rejections, len(known_paths))

    def _recall(self, key: str, open_photos: set[str]) -> Sequence[Rejection] | None:
        """What an unfinished run found, if that accounts for every photo, and whoever has a face still has it."""
        found = self._memory.recall(key)
        if found is None:
            return None if open_photos else []
        accounted = {photo for rejection in found for photo in rejection.photos}
        there = all(self._enroller.is_comparable(SubjectId(one.other)) for one in found if one.other is not None)
        return found if there and accounted >= open_photos else None

    def _enroll_new(
        self, person: Person, hashes: Mapping[Path, str], known: set[str], key: str, *, was_known: bool
    ) -> _Result:
        photos: list[tuple[EnrolledPhoto, str]] = []
        known_paths: list[Path] = []
        rejections: list[Rejection] = []
        seen = set(known)
        for path in person.paths:
            self._stop.check()
            if hashes[path] in seen:
                known_paths.append(path)
            else:
                try:
                    photo = load_photo(path)
                    photos.append((self._enroller.embed(photo), photo.sha256))
                    seen.add(photo.sha256)
                except InputError as error:
                    rejections.append(_reject(path, error))
            self._advance(1)
        enrollment = None
        try:
            enrollment = self._admit(person, photos, known_paths, was_known=was_known)
        except RejectedPhoto as error:
            names = tuple(Path(photo.source).name for photo, _ in photos)
            detail = f"{Path(error.source).name}: {error.detail}"
            rejections.append(Rejection(person.subject_id, names, error.reason, detail, error.other, whole=True))
        if rejections:
            self._memory.note(key, rejections)
        return _Result(enrollment, rejections, len(known_paths))

    def _admit(
        self,
        person: Person,
        photos: Sequence[tuple[EnrolledPhoto, str]],
        known_paths: Sequence[Path],
        *,
        was_known: bool,
    ) -> Enrollment | None:
        """Nothing is written where that would change nothing; None where nobody is enrolled.

        Raises:
            RejectedPhoto: the person is refused.
        """
        known_photos = tuple(map(str, known_paths))
        if not photos:
            subject = self._store.subject(person.subject_id)
            if subject is None:
                return None
            recorded = (subject.consent_reference, subject.consent_at, subject.consent_version, subject.consent_until)
            if self._consent is None or recorded == astuple(self._consent):
                return Enrollment(person.subject_id, new=False, photos=(), known_photos=known_photos)
        enrollment = self._enroller.admit(person.subject_id, photos, name=None, known=was_known, later=self._later)
        return replace(enrollment, known_photos=known_photos)


def _hash(path: Path) -> str:
    """Of the file; of one that cannot be read, why."""
    try:
        return hash_photo(path)
    except InputError as error:
        return str(error)


def _reject(path: Path, error: InputError) -> Rejection:
    if isinstance(error, RejectedPhoto):
        return Rejection(path.parent.name, (path.name,), error.reason, error.detail)
    return Rejection(path.parent.name, (path.name,), "unreadable", str(error).removeprefix(f"{path}: "))


class _Stopped(Exception):
    """Asked to end: no error."""


class _Stop:
    """Ctrl-C and SIGTERM end a run between two photos; the second one ends it at once."""

    _SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self._asked: int | None = None
        self._handlers: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        for number in self._SIGNALS:
            # One that is ignored stays so (nohup, a shell's background jobs).
            if signal.getsignal(number) not in {None, signal.SIG_IGN}:
                self._handlers[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def check(self) -> None:
        """Raises _Stopped: asked to end."""
        if self._asked is not None:
            raise _Stopped

    def obey(self) -> None:
        """End as the signal would have ended the process."""
        if self._asked is not None:
            sys.stdout.flush()
            signal.raise_signal(self._asked)

    def _note(self, number: int, _: FrameType | None) -> None:
        self._asked = number
        self._restore()

    def _restore(self) -> None:
        while self._handlers:
            signal.signal(*self._handlers.popitem())


class _Progress:
    """A bar with rate and remaining time, where stderr is a terminal."""

    def __init__(self, people: Sequence[Person]) -> None:
        # disable=None: no bar where stderr is no terminal.
        photos = sum(len(person.paths) for person in people)
        self._bar = tqdm(total=photos, unit="photo", desc="enrolling", disable=None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    def advance(self, photos: int) -> None:
        self._bar.update(photos)

    def tell(self, line: str, *, err: bool = False) -> None:
        """A line above the bar."""
        with self._bar.external_write_mode():
            click.echo(line, err=err)


class _Teller:
    """Tells of each person as soon as it is done: in words, or collected for JSON."""

    def __init__(self, outcome: _Outcome, folder: Path, progress: _Progress, *, as_json: bool, reported: bool) -> None:
        self._outcome = outcome
        self._folder = folder
        self._progress = progress
        self._as_json = as_json
        self._reported = reported

    def tell(self, result: _Result) -> None:
        if result.enrollment is not None:
            self._tell_enrollment(result.enrollment)
        self.tell_rejections(result.rejections)

    def tell_rejections(self, rejections: Sequence[Rejection]) -> None:
        """One line each, unless they are in the report."""
        if self._as_json or self._reported:
            return
        for rejection in rejections:
            self._progress.tell(f"left out: {rejection.error(self._folder)}", err=True)

    def _tell_enrollment(self, enrollment: Enrollment) -> None:
        if self._as_json:
            self._outcome.documents.append(enrollment_document(enrollment))
            return
        self._progress.tell(describe(enrollment))
        for note in enrollment.notes:
            self._progress.tell(f"note: {enrollment.subject_id}: {note}", err=True)


def _tell_end(outcome: _Outcome, folder: Path, report: Report | None, *, as_json: bool) -> None:
    if as_json:
        failures = [
            {"source": rejection.source(folder), "error": rejection.error(folder), "reason": rejection.reason}
            for rejection in outcome.rejections
        ]
        print_json({"subjects": outcome.documents, "failures": failures, "complete": outcome.totals.complete})
        return
    if outcome.rejections:
        click.echo("left out, by reason:", err=True)
        for line in summarize(outcome.rejections):
            click.echo(line, err=True)
    if report is not None:
        click.echo(f"all of them, photo by photo: {report.path}", err=True)


def _complain(outcome: _Outcome) -> None:
    """Raises InputError, one line: something could not be used."""
    if not outcome.rejections:
        return
    before = f" ({outcome.known_photos} were enrolled before)" if outcome.known_photos else ""
    raise InputError(
        f"{outcome.people_enrolled} people enrolled from {outcome.new_photos} new photos{before}; "
        f"{count_reasons(outcome.rejections).total()} folders or photos could not be used: mend or remove them and run "
        "this again"
    )
