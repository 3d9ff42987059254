"""After a change of model: templates of the model in use for people who have only another one's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import click
from tqdm import tqdm

from kiosk.biometrics import ModelId, SubjectId
from kiosk.commands.documents import quality_document
from kiosk.commands.enroll import Enroller, Enrollment, site_today
from kiosk.commands.enroll_many import find_people
from kiosk.commands.options import count, print_json, some
from kiosk.commands.stores import find_daemon, open_store
from kiosk.config import Config
from kiosk.errors import InputError, UnavailableError
from kiosk.gallery import Readiness
from kiosk.photo import hash_photo
from kiosk.pipeline import Pipeline, build_pipeline, model_id_of, open_bundle
from kiosk.store import Store


@dataclass(frozen=True, slots=True)
class PhotoFolder:
    """``DIR/<subject_id>/*.jpg``: each subject's photos; what cannot be used, with the reason."""

    photos: Mapping[SubjectId, tuple[Path, ...]]
    failures: Mapping[str, str]


@dataclass(slots=True)
class Reenrollment:
    """What became of everybody in the gallery and in the folder."""

    model_id: ModelId
    done: list[Enrollment] = field(default_factory=list)
    unseen_photos: set[str] = field(default_factory=set)
    """Photos that nobody had been enrolled from before."""
    failures: dict[str, str] = field(default_factory=dict)
    not_enrolled: dict[SubjectId, list[SubjectId]] = field(default_factory=dict)
    """In the folder, but not in the gallery; with the subjects who were enrolled from these very photos."""
    recognized: tuple[SubjectId, ...] = ()
    """Have templates of the model now."""
    unrecognized: tuple[SubjectId, ...] = ()
    """Have only templates of other models, still."""
    missing: tuple[SubjectId, ...] = ()
    """Those of them of whom the folder has no photos."""


@dataclass(frozen=True, slots=True)
class Drop:
    """How many templates were erased, by model. ``fault``: what keeps some in write-ahead log, backups or key file."""

    templates: Mapping[ModelId, int]
    fault: str | None


def run_reenrollment(config: Config, folder: Path | None, *, drop_old: bool, force: bool, as_json: bool) -> None:
    """Enroll again from a folder, where one is given; then drop what is old, where that is wanted and all is well.

    Raises:
        InputError: photos could not be used, or somebody still lacks the templates for a wanted drop.
        UnavailableError: there is no store, or a daemon recognizes with what is to be dropped.
    """
    # Opening it for writing would create it.
    open_store(config).close()
    model_id = model_id_of(config, open_bundle(config))
    if drop_old:
        _check_daemon(config, model_id)
    result = None if folder is None else reenroll(config, build_pipeline(config), find_photos(folder), force=force)
    all_well = result is None or not (result.failures or result.unrecognized)
    drop = _drop(config, model_id) if drop_old and all_well else None
    if as_json:
        print_json({"model": model_id, **(reenrollment_document(result) if result else {}), **_drop_document(drop)})
    else:
        tell_reenrollment(result)
        _tell_drop(drop)
    if result is not None:
        complain(result, drop_wanted=drop_old)


def find_photos(folder: Path) -> PhotoFolder:
    """What is in a folder of people.

    Raises:
        InputError: it cannot be read, or there is nobody in it.
    """
    people, rejections = find_people(folder)
    return PhotoFolder(
        {person.subject_id: person.paths for person in people},
        {rejection.source(folder): rejection.error(folder) for rejection in rejections},
    )


def reenroll(config: Config, pipeline: Pipeline, folder: PhotoFolder, *, force: bool = False) -> Reenrollment:
    """Make templates of the pipeline's model for everybody who is enrolled and has photos in the folder.

    Each subject is committed on its own, so that an interrupted run goes on where it was.
    """
    with open_store(config, writable=True) as store:
        needed_on = site_today(config) if config.privacy.require_consent else None
        worker = _Worker(pipeline, store, force=force, consent_needed_on=needed_on)
        result = worker.result
        result.failures |= folder.failures
        # disable=None: no bar where stderr is no terminal.
        for subject_id, paths in tqdm(folder.photos.items(), unit="person", desc="enrolling again", disable=None):
            worker.enroll(subject_id, paths)
        readiness = Readiness.of(result.model_id, store.subject_models())
    result.recognized, result.unrecognized = readiness.recognized, readiness.unrecognized
    result.missing = tuple(subject for subject in result.unrecognized if subject not in folder.photos)
    return result


class _Worker:
    """Enrolls one known subject after another again."""

    def __init__(self, pipeline: Pipeline, store: Store, *, force: bool, consent_needed_on: date | None) -> None:
        self._enroller = Enroller(pipeline, store, force=force, known_only=True, consent_needed_on=consent_needed_on)
        self._owners = store.photo_owners()
        self._subjects = {subject.id for subject in store.subjects()}
        self.result = Reenrollment(pipeline.embedder.model_id)

    def enroll(self, subject_id: SubjectId, paths: Iterable[Path]) -> None:
        hashes = self._hash(paths)
        if subject_id not in self._subjects:
            self.result.not_enrolled[subject_id] = sorted({o for sha in hashes.values() for o in self._owned_by(sha)})
            return
        usable = self._sort_out(subject_id, hashes)
        if not usable:
            return
        trusted = all(subject_id in self._owned_by(hashes[path]) for path in usable)
        try:
            enrollment = self._enroller.enroll(subject_id, usable, name=None, skip_bad=True, trusted=trusted)
        except InputError as error:
            self.result.failures[subject_id] = str(error)
            return
        self.result.failures |= enrollment.unusable
        if enrollment.photos or enrollment.known_photos:
            self.result.done.append(enrollment)

    def _hash(self, paths: Iterable[Path]) -> dict[Path, str]:
        hashes: dict[Path, str] = {}
        for path in paths:
            try:
                hashes[path] = hash_photo(path)
            except InputError as error:
                self.result.failures[str(path)] = str(error)
        return hashes

    def _sort_out(self, subject_id: SubjectId, hashes: Mapping[Path, str]) -> list[Path]:
        """The photos that may be this subject's: not those that somebody else was enrolled from."""
        usable = []
        for path, sha256 in hashes.items():
            owners = self._owned_by(sha256)
            if owners and subject_id not in owners:
                self.result.failures[str(path)] = (
                    f"{path}: {some(sorted(owners))} was enrolled from this photo; move it"
                )
                continue
            if not owners:
                self.result.unseen_photos.add(str(path))
            usable.append(path)
        return usable

    def _owned_by(self, sha256: str) -> set[SubjectId]:
        return self._owners.get(sha256, set())


def _check_daemon(config: Config, model_id: ModelId) -> None:
    """Raises UnavailableError while a daemon recognizes with templates that are to go."""
    daemon = find_daemon(config)
    if daemon is not None and daemon.model_id not in {None, model_id}:
        raise UnavailableError(
            f"the running kiosk (process {daemon.process}) still recognizes with {daemon.model_id}; restart it before "
            "its templates are dropped"
        )


def _drop(config: Config, model_id: ModelId) -> Drop:
    with open_store(config, writable=True) as store:
        dropped = store.drop_templates_except(model_id)
        store.purge()
        return Drop(dropped, store.purge_fault)


def tell_reenrollment(result: Reenrollment | None) -> None:
    """In words: who was enrolled again on stdout, who was not on stderr."""
    if result is None:
        return
    for enrollment in result.done:
        click.echo(_describe(enrollment, result.unseen_photos))
    for error in result.failures.values():
        click.echo(f"left out: {error}", err=True)
    for subject_id, owners in result.not_enrolled.items():
        whose = f" (but {some(owners)} is, from the same photos)" if owners else ""
        click.echo(f"not added: {subject_id} is not enrolled{whose}", err=True)
    everybody = len(result.recognized) + len(result.unrecognized)
    click.echo(f"{len(result.recognized)} of {count(everybody, 'subject')} can be recognized by {result.model_id}")
    for subject_id in result.unrecognized:
        reason = "no photos of this subject there" if subject_id in result.missing else "the photos cannot be used"
        click.echo(f"still not recognized: {subject_id} ({reason})", err=True)


def complain(result: Reenrollment, *, drop_wanted: bool = False) -> None:
    """Raises InputError, one line, when photos could not be used, or are missing for the wanted drop."""
    kept = "; nothing was dropped" if drop_wanted else ""
    if result.failures:
        photos = sum(len(enrollment.photos) for enrollment in result.done)
        raise InputError(
            f"{count(photos, 'photo')} enrolled again; {len(result.failures)} folders or photos could not be used: "
            f"mend or remove them, then `kiosk subjects reenroll DIR`{kept}"
        )
    if drop_wanted and result.unrecognized:
        raise InputError(
            f"still without templates of {result.model_id}: {some(result.unrecognized)}; enroll or remove them "
            f"first{kept}"
        )


def _tell_drop(drop: Drop | None) -> None:
    if drop is None:
        return
    erased = ", ".join(f"{count(number, 'template')} of {model}" for model, number in drop.templates.items())
    click.echo(f"erased: {erased or 'nothing, there are no templates of other models'}")
    if drop.fault is not None:
        click.echo(f"note: {drop.fault}; run `kiosk subjects reenroll --drop-old` once more", err=True)


def _describe(enrollment: Enrollment, unseen: set[str]) -> str:
    if not enrollment.photos:
        return f"{enrollment.subject_id}: has templates of this model already"
    new = sum(photo.source in unseen for photo in enrollment.photos)
    note = f", {new} of them new" if new else ""
    return f"{enrollment.subject_id}: enrolled again with {count(len(enrollment.photos), 'photo')}{note}"


def reenrollment_document(result: Reenrollment) -> dict[str, object]:
    """As JSON."""
    return {
        "subjects": [_subject_document(enrollment, result.unseen_photos) for enrollment in result.done],
        "failures": [{"source": source, "error": error} for source, error in result.failures.items()],
        "not_enrolled": [
            {"subject_id": subject_id, "photos_of": owners} for subject_id, owners in result.not_enrolled.items()
        ],
        "recognized": len(result.recognized),
        "unrecognized": list(result.unrecognized),
        "missing": list(result.missing),
    }


def _subject_document(enrollment: Enrollment, unseen: set[str]) -> dict[str, object]:
    return {
        "subject_id": enrollment.subject_id,
        "photos": [
            {"path": photo.source, "new": photo.source in unseen, "quality": quality_document(photo.quality)}
            for photo in enrollment.photos
        ],
        "known_photos": list(enrollment.known_photos),
    }


def _drop_document(drop: Drop | None) -> dict[str, object]:
    return {"dropped": None if drop is None else {"templates": dict(drop.templates), "complete": drop.fault is None}}
