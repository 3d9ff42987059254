"""``kiosk enroll``: photos of a person become templates, all of them or none."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import click

from kiosk.biometrics import Embedding, SubjectId, parse_subject_id
from kiosk.commands.documents import quality_document
from kiosk.commands.names import read_name
from kiosk.commands.options import DATE, PATH, common_options, json_option, load, print_json
from kiosk.commands.stores import open_store
from kiosk.config import Config
from kiosk.enrollment import (
    EnrolledPhoto,
    check_not_enrolled,
    check_same_person,
    embed_photo,
    find_near_copies,
)
from kiosk.errors import InputError, UsageError
from kiosk.gallery import Gallery
from kiosk.guidance import MAX_SAMPLES
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
@click.option(
    "--name",
    callback=read_name,
    help="The person's name, any text; - reads it from standard input. Default: the id. A name given again replaces "
    "the old one.",
)
@click.option(
    "--from-dir",
    "folder",
    type=PATH,
    metavar="DIR",
    help="Enroll everybody in DIR/<subject_id>/*.{jpg,png,...}; what cannot be used is reported and left out.",
)
@click.option("--camera", is_flag=True, help="Enroll from the camera, with hints; the running kiosk's where one runs.")
@click.option(
    "--samples",
    type=click.IntRange(1, MAX_SAMPLES),
    metavar="N",
    help=f"With --camera: how many pictures to take, 1 to {MAX_SAMPLES}. Default: 5.",
)
@click.option(
    "--timeout-s",
    type=click.FloatRange(1, 3600),
    metavar="S",
    help="With --camera: give up after so many seconds. Default: 120.",
)
@click.option(
    "--report",
    type=PATH,
    metavar="FILE",
    help="With --from-dir: write every photo that was left out, and why, to this file (.csv or .html).",
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
    camera: bool,
    samples: int | None,
    timeout_s: float | None,
    report: Path | None,
    force: bool,
    consent: str | None,
    consent_date: datetime | None,
    consent_version: str | None,
    consent_until: datetime | None,
    as_json: bool,
    config_path: Path | None,
    verbose: int,
) -> None:
    """Enroll a person from photos, or before the camera.

    SUBJECT_ID is 1 to 64 of the characters A-Z a-z 0-9 . _ -

    Three photos or more in different light recognize best. Each must show one face only. Photos of somebody who is
    enrolled already are added, once they have been found to show the same person.

    --camera tells what to do until there are pictures of five poses, and stores their templates then and only then. An
    interrupted --from-dir goes on where it was when it is run again.
    """
    _check_usage(subject_id, images, name, folder, camera=camera)
    if not camera and (samples is not None or timeout_s is not None):
        raise UsageError("enroll: --samples and --timeout-s need --camera")
    if report is not None and folder is None:
        raise UsageError("enroll: --report goes with --from-dir DIR")
    config = load(config_path, verbose)
    today = site_today(config)
    agreement = read_consent(consent, consent_date, consent_version, consent_until, today)
    if folder is not None:
        from kiosk.commands.enroll_many import run_bulk_enrollment

        run_bulk_enrollment(config, folder, report, force=force, consent=agreement, as_json=as_json)
        return
    checked_id = parse_subject_id(subject_id or "")
    pipeline = build_pipeline(config)
    with open_store(config, writable=True) as store:
        nobody_before = not store.subjects()
        needed_on = today if config.privacy.require_consent else None
        enroller = Enroller(pipeline, store, force=force, consent=agreement, consent_needed_on=needed_on)
        if camera:
            from kiosk.commands.enroll_camera import enroll_from_camera

            enroll_from_camera(
                config,
                pipeline,
                enroller,
                checked_id,
                name=name,
                samples=samples or 5,
                timeout_s=timeout_s or 120.0,
                as_json=as_json,
            )
        else:
            enrollment = enroller.enroll(checked_id, images, name=name)
            _tell(enrollment, as_json=as_json, model=str(pipeline.embedder.model_id))
    if nobody_before:
        note_new_store(store)


def note_new_store(store: Store) -> None:
    """A path that is mistyped begins a store, too."""
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
        self._read_gallery()

    def _read_gallery(self) -> None:
        templates = self._store.templates(self._model_id)
        self._gallery = Gallery(self._model_id, templates)
        self._embeddings: dict[SubjectId, list[Embedding]] = {}
        for template in templates:
            self._embeddings.setdefault(template.subject_id, []).append(template.embedding)

    def is_comparable(self, subject_id: SubjectId) -> bool:
        """Whether others are compared with this subject: it has templates of this model."""
        return subject_id in self._embeddings

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
        # Before anybody looks at the face.
        self.check_consent(subject_id)
        known = self.knows(subject_id)
        photos, known_photos, unusable = self._embed_all(subject_id, paths, skip_bad=skip_bad)
        if not photos and unusable and not known:
            raise InputError(f"{subject_id}: not enrolled, no photo can be used: {'; '.join(unusable.values())}")
        done = self.admit(subject_id, photos, name=name, known=known, trusted=trusted)
        return replace(done, known_photos=known_photos, unusable=unusable)

    def check_consent(self, subject_id: SubjectId) -> None:
        """Raises InputError where consent is needed and there is none."""
        if self._consent_needed_on is not None:
            self._store.check_consent(subject_id, self._consent, self._consent_needed_on)

    def knows(self, subject_id: SubjectId) -> bool:
        """Whether there is such a subject."""
        return self._store.subject(subject_id) is not None

    def check(
        self, subject_id: SubjectId, photos: Sequence[EnrolledPhoto], later: AbstractSet[SubjectId] = frozenset()
    ) -> None:
        """Compare photos with whom the store knows at this moment; with force they are whatever they are.

        ``later``: whose turn had not come when this subject was judged first, if it was. They move the threshold, and
        it must hold without them, too: who was refused once is refused again.

        Raises:
            RejectedPhoto: they show several people, another one than was enrolled, or one enrolled under another id.
        """
        if self._store.changed():
            # Somebody else enrolls, too: many photos take long enough for that.
            self._read_gallery()
        self._compare(subject_id, photos, later)

    def _compare(self, subject_id: SubjectId, photos: Sequence[EnrolledPhoto], later: AbstractSet[SubjectId]) -> None:
        if self._force:
            return
        check_same_person(photos, self._embeddings.get(subject_id, ()), self._pipeline.same_face_score)
        enrolled = self._embeddings.keys()
        present = later & enrolled
        # First without them, for the same words every time.
        for absent in [present, set[SubjectId]()] if present else [present]:
            kept = enrolled - absent - {subject_id}
            others = self._gallery if kept == enrolled else self._gallery.restricted(kept, lapsed=frozenset())
            check_not_enrolled(subject_id, photos, others, self._pipeline.duplicate_rule(others))

    def admit(
        self,
        subject_id: SubjectId,
        photos: Sequence[tuple[EnrolledPhoto, str | None]],
        *,
        name: str | None,
        known: bool,
        trusted: bool = False,
        later: AbstractSet[SubjectId] = frozenset(),
    ) -> Enrollment:
        """Check photos and commit them in one transaction, each with its file's SHA-256 (None: a camera took it).

        ``known``: whether there was such a subject when this enrollment began. ``later``: as :meth:`check` takes it.

        Raises:
            InputError: as :meth:`enroll`; or somebody else has added or removed the subject since.
        """
        embedded = [photo for photo, _ in photos]

        def verify() -> None:
            if self.knows(subject_id) != known:
                what = "removed" if known else "enrolled"
                raise InputError(f"{subject_id}: {what} by somebody else meanwhile; nothing was stored; begin again")
            if self._store.changed():
                self._read_gallery()
                if embedded and not trusted:
                    self._compare(subject_id, embedded, later)

        if embedded and not trusted:
            self.check(subject_id, embedded, later)
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
            verify=verify,
        )
        if embedded:
            own = self._embeddings.setdefault(subject_id, [])
            own += [photo.embedding for photo in embedded]
            self._gallery = self._gallery.updated(subject_id, own)
        notes = find_near_copies(embedded, self._pipeline.same_picture_score)
        return Enrollment(subject_id, not known, tuple(embedded), notes=tuple(notes))

    def known_hashes(self, subject_id: SubjectId) -> set[str]:
        """SHA-256 of the files that the subject's templates of this model were made from."""
        infos = self._store.template_infos(subject_id)
        return {info.source_sha256 for info in infos if info.model_id == self._model_id and info.source_sha256}

    def _embed_all(
        self, subject_id: SubjectId, paths: Iterable[Path], *, skip_bad: bool
    ) -> tuple[list[tuple[EnrolledPhoto, str]], tuple[str, ...], dict[str, str]]:
        """Each usable photo with its file's SHA-256; files that are enrolled already (whatever they are called now);
        and the others, each with what is wrong.
        """
        seen = self.known_hashes(subject_id)
        photos: list[tuple[EnrolledPhoto, str]] = []
        known: list[str] = []
        unusable: dict[str, str] = {}
        for path in paths:
            try:
                photo = load_photo(path)
                if photo.sha256 in seen:
                    known.append(str(path))
                    continue
                photos.append((self.embed(photo), photo.sha256))
                seen.add(photo.sha256)
            except InputError as error:
                if not skip_bad:
                    raise
                unusable[str(path)] = str(error)
        return photos, tuple(known), unusable

    def embed(self, photo: Photo) -> EnrolledPhoto:
        """Raises RejectedPhoto: it does not show one face well enough."""
        return embed(self._pipeline, photo)

    def _template(self, photo: EnrolledPhoto, sha256: str | None) -> NewTemplate:
        return NewTemplate(self._model_id, photo.embedding, photo.quality, sha256)


def embed(pipeline: Pipeline, photo: Photo) -> EnrolledPhoto:
    """Raises RejectedPhoto: it does not show one face well enough."""
    return embed_photo(
        str(photo.path),
        photo.image,
        detector=pipeline.photo_detector,
        embedder=pipeline.embedder,
        gate=pipeline.enrollment_gate,
    )


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


def _check_usage(
    subject_id: str | None, images: tuple[Path, ...], name: str | None, folder: Path | None, *, camera: bool
) -> None:
    if camera and (folder is not None or images):
        raise UsageError("enroll: --camera takes the pictures itself; leave out IMAGE and --from-dir")
    if folder is not None and (subject_id is not None or name is not None):
        raise UsageError("enroll: --from-dir takes ids from the folder names; leave out SUBJECT_ID, IMAGE and --name")
    if folder is None and subject_id is None:
        raise UsageError(
            "enroll: say who: SUBJECT_ID IMAGE..., SUBJECT_ID --camera, or --from-dir DIR; see `kiosk enroll --help`"
        )
    if folder is None and subject_id is not None and is_photo(Path(subject_id)):
        photos = " ".join(map(str, (subject_id, *images)))
        raise UsageError(f"enroll: no id given: kiosk enroll ID {photos}")
    if folder is None and not images and not camera:
        raise UsageError(f"enroll: no photo given; kiosk enroll {subject_id} PHOTO..., or --camera")


def _tell(enrollment: Enrollment, *, as_json: bool, model: str) -> None:
    if as_json:
        print_json(enrollment_document(enrollment) | {"model": model})
        return
    click.echo(describe(enrollment))
    for path in enrollment.known_photos:
        click.echo(f"note: {path} is enrolled already; passed over", err=True)
    for note in enrollment.notes:
        click.echo(f"note: {enrollment.subject_id}: {note}", err=True)


def describe(enrollment: Enrollment) -> str:
    """In one line."""
    count = len(enrollment.photos)
    if not count:
        return f"{enrollment.subject_id}: nothing new to enroll"
    photos = f"{count} photo{'' if count == 1 else 's'}"
    return f"{enrollment.subject_id}: {'enrolled with' if enrollment.new else 'added'} {photos}"


def enrollment_document(enrollment: Enrollment) -> dict[str, object]:
    """As JSON."""
    return {
        "subject_id": enrollment.subject_id,
        "new": enrollment.new,
        "photos": [{"path": photo.source, "quality": quality_document(photo.quality)} for photo in enrollment.photos],
        "known_photos": list(enrollment.known_photos),
        "notes": list(enrollment.notes),
    }
