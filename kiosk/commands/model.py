"""``kiosk model``: the model bundles on this machine."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click

from kiosk.biometrics import ModelId, SubjectId
from kiosk.bundle import BUILT_IN, Bundle, bundle_folders, place, read_bundle, select_bundle
from kiosk.bundle_choice import (
    FORMER,
    Notes,
    Refusal,
    choose_bundle,
    describe_refusal,
    find_others,
    read_notes,
    update_notes,
)
from kiosk.commands.bundle_files import copy_bundle, delete_bundle
from kiosk.commands.model_changes import (
    ModelChange,
    Use,
    change_document,
    confirm_loss,
    describe_change,
    describe_way_back,
    logged,
    plan_change,
)
from kiosk.commands.options import PATH, common_options, count, json_option, load, print_json
from kiosk.commands.reenroll import (
    PhotoFolder,
    complain,
    find_photos,
    reenroll,
    reenrollment_document,
    tell_reenrollment,
)
from kiosk.config import Config
from kiosk.errors import ConfigError, InputError, ModelError, PermissionDeniedError, StoreError
from kiosk.events import utc_text
from kiosk.pipeline import (
    build_pipeline,
    check_threshold,
    explain_accuracy,
    model_id_of,
    models_folder,
    open_bundle,
    try_bundle,
)
from kiosk.store import Action


@click.group("model")
def command() -> None:
    """List, inspect, install, roll back or remove model bundles."""


@command.command("list")
@json_option
@common_options
def list_bundles(*, as_json: bool, config_path: Path | None, verbose: int) -> None:
    """List the bundles on this machine; * marks the one in use. Former builds are those that installing replaced."""
    config = load(config_path, verbose)
    problem, why = None, None
    try:
        choice = choose_bundle(config.model.bundle, models_folder(config))
        in_use, why = choice.bundle.folder, choice.why
    except ModelError as error:
        in_use, problem = None, str(error)
    documents = _list(config, in_use)
    if as_json:
        print_json({"bundles": documents, "problem": problem, "stands_in": why})
        return
    for document in documents:
        mark = "*" if document["in_use"] else " "
        click.echo(f"{mark} {document['name']}\t{document['origin']}\t{document['summary']}")
    if problem is not None:
        click.echo(f"note: none is in use, the kiosk does not run: {problem}", err=True)
    if why is not None:
        click.echo(f"note: the one in use stands in for the one that is asked for: {why}", err=True)


@command.command("info")
@click.argument("name", required=False)
@json_option
@common_options
def info(*, name: str | None, as_json: bool, config_path: Path | None, verbose: int) -> None:
    """Show a bundle's manifest: by name or folder, else the one in use."""
    config = load(config_path, verbose)
    bundle = open_bundle(config) if name is None else select_bundle(name, models_folder(config))
    document = _full_document(bundle)
    if as_json:
        print_json(document)
        return
    for key, value in document.items():
        if not isinstance(value, dict | list):
            click.echo(f"{key}: {'-' if value is None else value}")
    click.echo(f"source: {bundle.manifest.source.file} ({bundle.manifest.source.origin})")
    click.echo(explain_accuracy(bundle))


@command.command("install")
@click.argument("folder", type=PATH)
@click.option(
    "--photos",
    "photo_folder",
    type=PATH,
    metavar="DIR",
    help="Right afterwards enroll people again with this bundle, from DIR/<subject_id>/*.{jpg,png,...}.",
)
@click.option("--yes", is_flag=True, help="Do not ask, even if people are not recognized any more.")
@json_option
@common_options
def install(
    *, folder: Path, photo_folder: Path | None, yes: bool, as_json: bool, config_path: Path | None, verbose: int
) -> None:
    """Check a bundle and copy it to where the kiosk looks for it.

    The bundle has to pass a self-test in a process of its own first: it must tell the kiosk's sample photos apart, and
    answer what it answered where it was built. Then says which bundle is in use now and afterwards, and who will not be
    recognized until enrolled again. If there is anybody it asks; without a terminal it does nothing unless --yes is
    given (exit code 64). A bundle of the same name is replaced in one step, and kept as the former build: `kiosk model
    rollback` returns to it. Other bundles and all templates stay.
    """
    config = load(config_path, verbose)
    bundle = read_bundle(folder)
    photos, pipeline = None, None
    try_bundle(config, bundle)
    if photo_folder is not None:
        photos, pipeline = find_photos(photo_folder), build_pipeline(config, bundle)
    installation = _plan_installation(config, bundle, photos)
    _announce(installation.describe(), as_json=as_json)
    with _telling(installation.document(), as_json=as_json) as outcome:
        confirm_loss(
            installation.change,
            f"install {bundle.manifest.name}",
            yes=yes,
            option="" if photos else ", --photos DIR enrolls people again",
            spared=installation.with_photos,
        )
        details = {"bundle": bundle.manifest.name, "model": installation.model_id, "replaces": outcome["replaces"]}
        copy_bundle(bundle, installation.target, logged(config, Action.INSTALL_MODEL, details))
        _note(config, lambda notes: notes.with_installed(bundle))
        _announce([f"{bundle.manifest.name} installed in {installation.target}"], as_json=as_json)
        outcome["installed"] = True
        if photos is not None and pipeline is not None and installation.change.templates:
            result = reenroll(config, pipeline, photos)
            outcome["reenrollment"] = reenrollment_document(result)
            if not as_json:
                tell_reenrollment(result)
            complain(result)


@dataclass(frozen=True, slots=True)
class _Installation:
    """A bundle about to be installed, and what will come of it."""

    config: Config
    bundle: Bundle
    target: Path
    change: ModelChange
    photos: PhotoFolder | None

    @property
    def model_id(self) -> ModelId:
        return model_id_of(self.config, self.bundle)

    @property
    def ready(self) -> list[SubjectId]:
        """Who has templates of this bundle already."""
        return [subject for subject, counts in self.change.templates.items() if self.model_id in counts]

    @property
    def with_photos(self) -> list[SubjectId]:
        """Who would be lost and can be enrolled again at once."""
        return [subject for subject in self.change.lost if self.photos and subject in self.photos.photos]

    def describe(self) -> Iterator[str]:
        yield from describe_change(self.change)
        name, after = self.bundle.manifest.name, self.change.after
        if isinstance(after, Use) and after.model_id != self.model_id:
            why = "auto prefers another" if self.config.model.bundle == "auto" else "model.bundle names another"
            yield f"{name} will not be used ({why}); set model.bundle: {name} to use it"
            everybody = count(len(self.change.templates), "subject")
            yield f"{len(self.ready)} of {everybody} have templates of {self.model_id}"
        if self.with_photos:
            yield f"of them {len(self.with_photos)} have photos and are enrolled again right afterwards"
        elif isinstance(after, Use) and after.readiness.unrecognized:
            yield "`kiosk subjects reenroll DIR` enrolls people again, from photos in DIR/<subject_id>/"
        if self.photos and not self.change.templates:
            yield "nobody can be enrolled again; `kiosk enroll --from-dir DIR` enrolls new people"
        way_back = describe_way_back(self.change, self.target, self.config)
        if way_back is not None:
            yield way_back

    def document(self) -> dict[str, object]:
        return {
            "bundle": self.bundle.manifest.name,
            "model": self.model_id,
            "folder": str(self.target),
            "installed": False,
            "replaces": self.target.exists(),
            **change_document(self.change),
            "with_its_templates": self.ready,
            "with_photos": self.with_photos,
            "way_back": describe_way_back(self.change, self.target, self.config),
            "reenrollment": None,
        }


def _plan_installation(config: Config, bundle: Bundle, photos: PhotoFolder | None) -> _Installation:
    target = models_folder(config) / bundle.manifest.name
    notes = read_notes(models_folder(config)).with_installed(bundle)
    change = plan_change(config, {place(target): Bundle(target, bundle.manifest)}, notes)
    return _Installation(config, bundle, target, change, photos)


def _announce(lines: Iterable[str], *, as_json: bool) -> None:
    if not as_json:
        for line in lines:
            click.echo(line)


@contextmanager
def _telling(document: dict[str, object], *, as_json: bool) -> Iterator[dict[str, object]]:
    """Print the document, with what the block has put into it, however the block ends."""
    try:
        yield document
    finally:
        if as_json:
            print_json(document)


def _note(config: Config, change: Callable[[Notes], Notes]) -> None:
    folder = models_folder(config)
    try:
        folder.mkdir(mode=0o755, exist_ok=True)
        update_notes(folder, change)
    except PermissionError as error:
        raise PermissionDeniedError(f"{folder}: cannot be written; run as the user who owns the store") from error
    except OSError as error:
        raise StoreError(f"{folder}: cannot be written: {error.strerror}") from error


@command.command("rollback")
@click.option("--yes", is_flag=True, help="Do not ask, even if people are not recognized any more.")
@json_option
@common_options
def rollback(*, yes: bool, as_json: bool, config_path: Path | None, verbose: int) -> None:
    """Go back to the bundle that was in use before, and set the present one aside.

    That is the one the kiosk last ran with, else the build that was replaced, else the next best on this machine; it
    has to pass the self-test. The present one stays where it is and is not used, whatever model.bundle says, until it
    is installed again. Says first, like install, who will not be recognized, and asks if there is anybody. A running
    kiosk goes over to it when it is restarted.
    """
    config = load(config_path, verbose)
    folder = models_folder(config)
    present, notes = open_bundle(config), read_notes(folder)
    other = _find_one_to_go_back_to(config, present, notes)
    refusal = Refusal(
        model=present.model_id, why="`kiosk model rollback`", at=utc_text(time.time_ns() // 10**6), by_hand=True
    )
    change = plan_change(config, notes=notes.with_refused(present, refusal, other))
    document = {"from": present.model_id, "to": other.model_id, "done": False, **change_document(change)}
    _announce(describe_change(change), as_json=as_json)
    with _telling(document, as_json=as_json) as outcome:
        confirm_loss(change, f"go back to {other.model_id}", yes=yes)
        details = {"model": other.model_id, "from": present.model_id}
        with logged(config, Action.ROLLBACK_MODEL, details):
            _note(config, lambda noted: noted.with_refused(present, refusal, other))
        outcome["done"] = True
        again = f"`kiosk model install {present.folder}` takes it into use again"
        _announce([f"{present.model_id} is set aside, {other.model_id} is used; {again}"], as_json=as_json)


def _find_one_to_go_back_to(config: Config, present: Bundle, notes: Notes) -> Bundle:
    problems = []
    for other in find_others(notes, models_folder(config), {present.fingerprint}):
        try:
            check_threshold(config, other)
            try_bundle(config, other)
        except (ModelError, ConfigError) as error:
            problems.append(str(error))
        else:
            return other
    why = f": {problems[0]}" if problems else ""
    raise ModelError(f"{present.model_id}: there is no other bundle on this machine to go back to{why}")


@command.command("remove")
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask, even if people are not recognized any more.")
@json_option
@common_options
def remove(*, name: str, yes: bool, as_json: bool, config_path: Path | None, verbose: int) -> None:
    """Delete an installed bundle; also one that is damaged.

    Says first, like install, what is in use afterwards and who will not be recognized, and asks if there is anybody.
    Templates stay.
    """
    config = load(config_path, verbose)
    target = _find_installed(config, name)
    change = plan_change(config, {place(target): None})
    made = _templates_of(target, change)
    document = {"bundle": name, "folder": str(target), "removed": False, **change_document(change), "templates": made}
    _announce(_describe_removal(name, change, made), as_json=as_json)
    with _telling(document, as_json=as_json) as outcome:
        confirm_loss(change, f"remove {name}", yes=yes)
        delete_bundle(target, logged(config, Action.REMOVE_MODEL, {"bundle": name}))
        outcome["removed"] = True
        _announce([f"{name} removed from {target.parent}"], as_json=as_json)


def _describe_removal(name: str, change: ModelChange, made: Mapping[ModelId, int]) -> Iterator[str]:
    yield from describe_change(change)
    if made:
        number = count(sum(made.values()), "template")
        yield f"{number} made with {name} stay, of use again if this very bundle is installed again"


def _find_installed(config: Config, name: str) -> Path:
    """The folder of an installed bundle, sound or not.

    Raises:
        InputError: the name is that of a built-in bundle.
        ModelError: there is no such bundle.
    """
    found = {folder.name: folder for folder in bundle_folders(models_folder(config))}
    if name in found:
        return found[name]
    if name in {folder.name for folder in bundle_folders(BUILT_IN)}:
        raise InputError(f"{name}: built in, a part of the kiosk; only installed bundles can be removed")
    raise ModelError(f"{name}: no such bundle in {models_folder(config)}; `kiosk model list` names the installed ones")


def _templates_of(folder: Path, change: ModelChange) -> dict[ModelId, int]:
    """How many templates a bundle made, by model id; of a damaged one, how many its name stands with."""
    try:
        start = read_bundle(folder).model_id
    except ModelError:
        start = ModelId(f"{folder.name}@")
    made: Counter[ModelId] = Counter()
    for counts in change.templates.values():
        made.update({model: number for model, number in counts.items() if model.startswith(start)})
    return dict(made)


def _list(config: Config, in_use: Path | None) -> list[dict[str, object]]:
    """Installed bundles, built-in ones, and the one in use should it lie elsewhere."""
    folder = models_folder(config)
    folders = dict.fromkeys(bundle_folders(folder), "installed")
    folders |= dict.fromkeys(bundle_folders(folder / FORMER), "former")
    folders |= dict.fromkeys(bundle_folders(BUILT_IN), "built in")
    if in_use is not None:
        folders.setdefault(in_use, "model.bundle")
    notes = read_notes(folder)
    return [_document(folder, origin, in_use, notes) for folder, origin in folders.items()]


def _document(folder: Path, origin: str, in_use: Path | None, notes: Notes) -> dict[str, object]:
    document: dict[str, object] = {"name": folder.name, "origin": origin, "folder": str(folder)}
    try:
        bundle = read_bundle(folder)
    except ModelError as error:
        return document | {"in_use": False, "summary": f"DAMAGED: {error}", "model": None, "accuracy": None}
    accuracy = bundle.manifest.accuracy
    summary = f"{bundle.manifest.embedding_dim}-d, {bundle.manifest.variant}, {explain_accuracy(bundle)}"
    refusal = notes.refused.get(bundle.fingerprint)
    if refusal is not None:
        summary = f"NOT USED: {describe_refusal(bundle.model_id, refusal)}; {summary}"
    return document | {
        "in_use": folder == in_use,
        "summary": summary,
        "model": bundle.model_id,
        "accuracy": None if accuracy is None else accuracy.model_dump(),
    }


def _full_document(bundle: Bundle) -> dict[str, object]:
    size_bytes = bundle.model_path.stat().st_size
    return {
        "model": bundle.model_id,
        "folder": str(bundle.folder),
        "size_bytes": size_bytes,
        **bundle.manifest.model_dump(mode="json", by_alias=True),
    }
