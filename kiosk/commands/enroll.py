"""``kiosk enroll``: photos of a person become templates, all of them or none."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import click
from tqdm import tqdm

from kiosk.biometrics import SubjectId
from kiosk.commands.documents import quality_document
from kiosk.commands.options import DATE, PATH, common_options, json_option, load, print_json
from kiosk.commands.stores import open_store
from kiosk.config import Config
from kiosk.enrollment import (
    EnrolledPhoto,
    check_not_enrolled,
    check_same_person,
    embed_photo,
    find_near_copies,
    parse_subject_id,
)
from kiosk.errors import InputError, UsageError
from kiosk.gallery import Gallery
from kiosk.photo import Photo, is_photo, load_photo
from kiosk.pipeline import Pipeline, build_pipeline
from kiosk.store import Consent, NewTemplate, Store

_MAX_TEXT = 200


@dataclass(frozen=True, slots=True)
class Enrollment:
    """What one subject's enrollment did."""

    subject_id: SubjectId
    new: bool
    photos: tuple[EnrolledPhoto, ...]
    known_photos: tuple[str, ...] = ()
    """Files that were enrolled already, passed over."""
    unusable: dict[str, str] = field(default_factory=dict)
    """Files that were left out, each with the reason."""
    notes: tuple[str, ...] = ()
    """What would make the templates better."""


@click.command("enroll")
@click.argument("subject_id", required=False)
@click.argument("images", type=PATH, nargs=-1, metavar="IMAGE...")
@click.option("--name", help="The person's name, any text. Default: the id. A name given again replaces the old one.")
@click.option(
    "--from-dir",
    "folder",
    type=PATH,
    metavar="DIR",
    help="Enroll everybody in DIR/<subject_id>/*.{jpg,png,...}; what cannot be used is reported and left out.",
)
@click.option("--force", is_flag=True, help="Enroll although the face is enrolled under another id, or photos differ.")
@click.option(
    "--consent",
    metavar="REFERENCE",
    help="Where the person's consent is filed (a document number, say); stored with the date of --consent-date.",
)
@click.option(
    "--consent-date",
    type=DATE,
    metavar="YYYY-MM-DD",
    help="When consent was given. Default: today.",
)
@click.option("--consent-version", metavar="V", help="Which version of the text the person agreed to.")
@click.option(
    "--consent-until",
    type=DATE,
    metavar="YYYY-MM-DD",
    help="Last day the consent holds; from the next on the person is not recognized, and due to be erased.",
)
@json_option
@common_options
def command(
    *,
    subject_id: str | None,
    images: tuple[Path, ...],
    name: str | None,
    folder: Path | None,
    force: bool,
    consent: str | None,
    consent_date: datetime | None,
    consent_version: str | None,
    consent_until: datetime | None,
    as_json: bool,
    config_path: Path | None,
    verbose: int,
) -> None:
    """Enroll a person from photos.

    SUBJECT_ID is 1 to 64 of the characters A-Z a-z 0-9 . _ -

    Three photos or more in different light recognize best. Each must show one face only. Photos of somebody who is
    enrolled already are added, once they have been found to show the same person.
    """
    _check_usage(subject_id, images, name, folder)
    config = load(config_path, verbose)
    today = site_today(config)
    agreement = read_consent(consent, consent_date, consent_version, consent_until, today)
    subjects = [] if subject_id is None else [(parse_subject_id(subject_id), images)]
    if folder is not None:
        subjects, failures = find_subjects(folder)
    pipeline = build_pipeline(config)
    with open_store(config, writable=True) as store:
        nobody_before = not store.subjects()
        needed_on = today if config.privacy.require_consent else None
        enroller = Enroller(pipeline, store, force=force, consent=agreement, consent_needed_on=needed_on)
        if folder is None:
            enrollment = enroller.enroll(subjects[0][0], subjects[0][1], name=name)
            _tell(enrollment, as_json=as_json, model=str(pipeline.embedder.model_id))
        else:
            _enroll_many(enroller, subjects, failures, as_json=as_json)
    if nobody_before:
        # A path that is mistyped begins a store, too.
        click.echo(f"note: {store.path} is a new store: nobody was enrolled in it before", err=True)


class Enroller:
    """Enrolls subjects one after another into a store; each sees those before it.

    ``known_only``: never add a subject, only templates to those there are. ``consent_needed_on``: nobody whose consent
    does not hold on that day.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        store: Store,
        *,
        force: bool,
        consent: Consent | None = None,
        known_only: bool = False,
        consent_needed_on: date | None = None,
    ) -> None:
        self._pipeline = pipeline
        self._store = store
        self._force = force
        self._known_only = known_only
        self._consent = consent
        self._consent_needed_on = consent_needed_on
        self._model_id = pipeline.embedder.model_id
        self._templates = store.templates(self._model_id)

    def enroll(
        self,
        subject_id: SubjectId,
        paths: Iterable[Path],
        *,
        name: str | None,
        skip_bad: bool = False,
        trusted: bool = False,
    ) -> Enrollment:
        """Make templates of the photos and commit them in one transaction.

        ``skip_bad``: leave unusable photos out instead of refusing them all. ``trusted``: the photos are known to be
        this subject's, whatever the model makes of them.

        Raises:
            InputError: a photo that is not fit, another person's, or of a face enrolled under another id; no consent
                where it is needed.
        """
        if self._consent_needed_on is not None:
            # Before anybody looks at the face.
            self._store.check_consent(subject_id, self._consent, self._consent_needed_on)
        known = self._store.subject(subject_id) is not None
        photos, known_photos, unusable = self._embed_all(subject_id, paths, skip_bad=skip_bad)
        if not photos and unusable and not known:
            raise InputError(f"{subject_id}: not enrolled, no photo can be used: {'; '.join(unusable.values())}")
        embedded = [photo for photo, _ in photos]
        if embedded and not (self._force or trusted):
            self._check(subject_id, embedded)
        # Without a name the id is the name; one that was given earlier stays.
        new_name = subject_id if name is None and not known else name
        templates = [self._template(*photo) for photo in photos]
        self._store.enroll(
            subject_id,
            templates,
            name=new_name,
            consent=self._consent,
            known_only=self._known_only,
            consent_needed_on=self._consent_needed_on,
        )
        self._templates += [photo.template(subject_id, self._model_id) for photo in embedded]
        notes = find_near_copies(embedded, self._pipeline.same_picture_score)
        return Enrollment(subject_id, not known, tuple(embedded), known_photos, unusable, tuple(notes))

    def _embed_all(
        self, subject_id: SubjectId, paths: Iterable[Path], *, skip_bad: bool
    ) -> tuple[list[tuple[EnrolledPhoto, str]], tuple[str, ...], dict[str, str]]:
        """Each usable photo with its file's SHA-256; files that are enrolled already (whatever they are called now);
        and the others, each with what is wrong.
        """
        infos = self._store.template_infos(subject_id)
        seen = {info.source_sha256 for info in infos if info.model_id == self._model_id}
        photos: list[tuple[EnrolledPhoto, str]] = []
        known: list[str] = []
        unusable: dict[str, str] = {}
        for path in paths:
            try:
                photo = load_photo(path)
                if photo.sha256 in seen:
                    known.append(str(path))
                    continue
                photos.append((self._embed(photo), photo.sha256))
                seen.add(photo.sha256)
            except InputError as error:
                if not skip_bad:
                    raise
                unusable[str(path)] = str(error)
        return photos, tuple(known), unusable

    def _embed(self, photo: Photo) -> EnrolledPhoto:
        pipeline = self._pipeline
        return embed_photo(
            str(photo.path),
            photo.image,
            detector=pipeline.photo_detector,
            embedder=pipeline.embedder,
            gate=pipeline.enrollment_gate,
        )

    def _check(self, subject_id: SubjectId, photos: list[EnrolledPhoto]) -> None:
        known = [template.embedding for template in self._templates if template.subject_id == subject_id]
        check_same_person(photos, known, self._pipeline.same_face_score)
        others = Gallery(self._model_id, (t for t in self._templates if t.subject_id != subject_id))
        check_not_enrolled(subject_id, photos, others, self._pipeline.duplicate_rule(others))

    def _template(self, photo: EnrolledPhoto, sha256: str) -> NewTemplate:
        return NewTemplate(self._model_id, photo.embedding, photo.quality, sha256)


def site_today(config: Config) -> date:
    """The date at the site."""
    return datetime.now(ZoneInfo(config.device.timezone)).date()


def read_consent(
    reference: str | None, given: datetime | None, version: str | None, until: datetime | None, today: date
) -> Consent | None:
    """The consent that options describe; without a date it was given today.

    Raises:
        UsageError: options without a reference, text that is no line, a date to come, or an end that has passed.
    """
    options = {"--consent-date": given, "--consent-version": version, "--consent-until": until}
    if reference is None:
        named = next((name for name, value in options.items() if value is not None), None)
        if named is not None:
            raise UsageError(f"{named} needs --consent REFERENCE")
        return None
    for text in (reference, version):
        if text is not None and not (text.strip() and text.isprintable() and len(text) <= _MAX_TEXT):
            raise UsageError(f"consent: {text[:40]!a} is not 1 to {_MAX_TEXT} characters on one line")
    if given is not None and given.date() > today:
        raise UsageError(f"consent: {given.date()} is still to come, today being {today}; is the clock right?")
    day, last = (today if given is None else given.date()), None if until is None else until.date()
    if last is not None and last < max(day, today):
        raise UsageError(f"consent: it would have ended on {last} already")
    return Consent(reference, day.isoformat(), version, None if last is None else last.isoformat())


def _check_usage(subject_id: str | None, images: tuple[Path, ...], name: str | None, folder: Path | None) -> None:
    if folder is not None and (subject_id is not None or name is not None):
        raise UsageError("enroll: --from-dir takes ids from the folder names; leave out SUBJECT_ID, IMAGE and --name")
    if folder is None and subject_id is None:
        raise UsageError("enroll: say who: SUBJECT_ID IMAGE..., or --from-dir DIR; see `kiosk enroll --help`")
    if folder is None and subject_id is not None and is_photo(Path(subject_id)):
        photos = " ".join(map(str, (subject_id, *images)))
        raise UsageError(f"enroll: no id given: kiosk enroll ID {photos}")
    if folder is None and not images:
        raise UsageError(f"enroll: no photo given; kiosk enroll {subject_id} PHOTO...")


def find_subjects(folder: Path) -> tuple[list[tuple[SubjectId, tuple[Path, ...]]], dict[str, str]]:
    """Subjects and their photos below a folder, and what cannot be one."""
    try:
        entries = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError as error:
        raise InputError(f"{folder}: cannot be read as a folder: {error.strerror}") from error
    if not entries:
        raise InputError(f"{folder}: no folders in it; put photos in {folder}/<subject_id>/")
    subjects: list[tuple[SubjectId, tuple[Path, ...]]] = []
    failures: dict[str, str] = {}
    for entry in entries:
        try:
            subjects.append((parse_subject_id(entry.name), _photos_in(entry)))
        except InputError as error:
            failures[str(entry)] = str(error)
    return subjects, failures


def _photos_in(folder: Path) -> tuple[Path, ...]:
    photos = tuple(sorted(path for path in folder.iterdir() if is_photo(path)))
    if not photos:
        raise InputError(f"{folder}: no photos in it (.jpg, .png, …)")
    return photos


def _enroll_many(
    enroller: Enroller,
    subjects: list[tuple[SubjectId, tuple[Path, ...]]],
    failures: dict[str, str],
    *,
    as_json: bool,
) -> None:
    done: list[Enrollment] = []
    # disable=None: no bar where stderr is no terminal.
    with tqdm(subjects, unit="person", desc="enrolling", disable=None) as progress:
        for subject_id, photos in progress:
            try:
                enrollment = enroller.enroll(subject_id, photos, name=None, skip_bad=True)
            except InputError as error:
                failures[subject_id] = str(error)
                continue
            failures |= enrollment.unusable
            done.append(enrollment)
    _tell_all(done, failures, as_json=as_json)


def _tell(enrollment: Enrollment, *, as_json: bool, model: str) -> None:
    if as_json:
        print_json(_document(enrollment) | {"model": model})
        return
    click.echo(_describe(enrollment))
    for path in enrollment.known_photos:
        click.echo(f"note: {path} is enrolled already; passed over", err=True)
    _note(enrollment)


def _tell_all(done: list[Enrollment], failures: dict[str, str], *, as_json: bool) -> None:
    """The summary; one error line for all that failed.

    Raises:
        InputError: something could not be enrolled.
    """
    if as_json:
        problems = [{"source": source, "error": error} for source, error in failures.items()]
        print_json({"subjects": [_document(enrollment) for enrollment in done], "failures": problems})
    else:
        for enrollment in done:
            click.echo(_describe(enrollment))
            _note(enrollment)
        for error in failures.values():
            click.echo(f"left out: {error}", err=True)
    if failures:
        photos = sum(len(enrollment.photos) for enrollment in done)
        raise InputError(
            f"{len(done)} people enrolled from {photos} new photos; {len(failures)} folders or photos could not be "
            "used: mend or remove them and run this again"
        )


def _note(enrollment: Enrollment) -> None:
    for note in enrollment.notes:
        click.echo(f"note: {enrollment.subject_id}: {note}", err=True)


def _describe(enrollment: Enrollment) -> str:
    count = len(enrollment.photos)
    if not count:
        return f"{enrollment.subject_id}: nothing new to enroll"
    photos = f"{count} photo{'' if count == 1 else 's'}"
    return f"{enrollment.subject_id}: {'enrolled with' if enrollment.new else 'added'} {photos}"


def _document(enrollment: Enrollment) -> dict[str, object]:
    return {
        "subject_id": enrollment.subject_id,
        "new": enrollment.new,
        "photos": [{"path": photo.source, "quality": quality_document(photo.quality)} for photo in enrollment.photos],
        "known_photos": list(enrollment.known_photos),
        "notes": list(enrollment.notes),
    }
