"""``kiosk model``: the model bundles on this machine."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from pathlib import Path

import click

from kiosk.biometrics import ModelId
from kiosk.bundle import BUILT_IN, Bundle, bundle_folders, place, read_bundle
from kiosk.commands.model_changes import (
    ModelChange,
    Use,
    change_document,
    confirm_loss,
    describe_change,
    describe_way_back,
    plan_change,
)
from kiosk.commands.options import PATH, common_options, count, json_option, load, print_json
from kiosk.commands.reenroll import (
    Reenrollment,
    complain,
    find_photos,
    reenroll,
    reenrollment_document,
    tell_reenrollment,
)
from kiosk.config import Config
from kiosk.errors import InputError, KioskError, ModelError, PermissionDeniedError, StoreError, UsageError
from kiosk.pipeline import build_embedder, build_pipeline, explain_accuracy, model_id_of, models_folder, open_bundle

_FILES = ("manifest.json", "model.tflite")
_OPTIONAL_FILES = ("report.md",)


@click.group("model", no_args_is_help=False, invoke_without_command=True)
@click.pass_context
def command(ctx: click.Context) -> None:
    """List, inspect, install or remove model bundles."""
    if ctx.invoked_subcommand is None:
        raise UsageError("model: say what to do: list, info, install or remove; see `kiosk model --help`")


@command.command("list")
@json_option
@common_options
def list_bundles(*, as_json: bool, config_path: Path | None, verbose: int) -> None:
    """List the bundles on this machine; * marks the one in use."""
    config = load(config_path, verbose)
    try:
        in_use, problem = open_bundle(config).folder, None
    except ModelError as error:
        in_use, problem = None, str(error)
    documents = _list(config, in_use)
    if as_json:
        print_json({"bundles": documents, "problem": problem})
        return
    for document in documents:
        mark = "*" if document["in_use"] else " "
        click.echo(f"{mark} {document['name']}\t{document['origin']}\t{document['summary']}")
    if problem is not None:
        click.echo(f"note: none is in use, the kiosk does not run: {problem}", err=True)


@command.command("info")
@click.argument("name", required=False)
@json_option
@common_options
def info(*, name: str | None, as_json: bool, config_path: Path | None, verbose: int) -> None:
    """Show a bundle's manifest: by name or folder, else the one in use."""
    config = load(config_path, verbose)
    bundle = open_bundle(_wanting(config, name))
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

    First says which bundle is in use now and afterwards, and who will not be recognized until enrolled again; asks if
    there is anybody. Hash and shapes are checked before and after the copy. A bundle of the same name is replaced;
    other bundles and all templates stay.
    """
    config = load(config_path, verbose)
    bundle = read_bundle(folder)
    target = models_folder(config) / bundle.manifest.name
    photos, pipeline = None, None
    if photo_folder is None:
        build_embedder(config, bundle)
    else:
        photos, pipeline = find_photos(photo_folder), build_pipeline(_wanting(config, str(place(folder))))
    change = plan_change(config, {place(target): Bundle(target, bundle.manifest)})
    document = _install_document(config, bundle, target, change)
    if not as_json:
        _tell_installation(config, change, document)
    try:
        confirm_loss(
            change,
            f"install {bundle.manifest.name}",
            yes=yes,
            option="" if photos else ", --photos DIR enrolls people again",
            spared=photos.photos if photos else (),
        )
    except KioskError:
        if as_json:
            print_json(document)
        raise
    _copy(bundle, target)
    if not as_json:
        click.echo(f"{bundle.manifest.name} installed in {target}")
    result = None
    if photos is not None and pipeline is not None and change.templates:
        result = reenroll(config, pipeline, photos)
    if as_json:
        print_json(document | {"installed": True, "reenrollment": result and reenrollment_document(result)})
    else:
        _tell_people(change, result, photo_folder)
    if result is not None:
        complain(result)


def _install_document(config: Config, bundle: Bundle, target: Path, change: ModelChange) -> dict[str, object]:
    model_id = model_id_of(config, bundle)
    return {
        "bundle": bundle.manifest.name,
        "model": model_id,
        "folder": str(target),
        "installed": False,
        "replaces": target.exists(),
        **change_document(change),
        "with_its_templates": [subject for subject, counts in change.templates.items() if model_id in counts],
        "way_back": describe_way_back(change, target, config),
        "reenrollment": None,
    }


def _tell_installation(config: Config, change: ModelChange, document: dict[str, object]) -> None:
    for line in describe_change(change):
        click.echo(line)
    after = change.after
    if isinstance(after, Use) and after.model_id != document["model"]:
        name = document["bundle"]
        why = "model.bundle names another" if config.model.bundle != "auto" else "auto prefers another"
        click.echo(f"note: {name} will not be used, {why}; model.bundle: {name} uses it", err=True)
    if document["way_back"] is not None:
        click.echo(document["way_back"])


def _tell_people(change: ModelChange, result: Reenrollment | None, photo_folder: Path | None) -> None:
    if result is not None:
        tell_reenrollment(result)
    elif photo_folder is not None:
        click.echo("note: nobody is enrolled, so nobody was enrolled again; `kiosk enroll --from-dir` adds", err=True)
    elif isinstance(change.after, Use) and change.after.readiness.unrecognized:
        click.echo("`kiosk subjects reenroll DIR` enrolls people again, from photos in DIR/<subject_id>/")


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
    if not as_json:
        for line in describe_change(change):
            click.echo(line)
        if made:
            number = count(sum(made.values()), "template")
            click.echo(f"{number} made with {name} stay, of use again if this very bundle is installed again")
    try:
        confirm_loss(change, f"remove {name}", yes=yes)
    except KioskError:
        if as_json:
            print_json(document)
        raise
    _delete(target)
    if as_json:
        print_json(document | {"removed": True})
    else:
        click.echo(f"{name} removed from {target.parent}")


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


def _delete(target: Path) -> None:
    """Out of sight first, so that no half-deleted bundle is ever found."""
    try:
        with tempfile.TemporaryDirectory(prefix=".remove-", dir=target.parent) as work:
            target.rename(Path(work) / target.name)
    except PermissionError as error:
        raise PermissionDeniedError(f"{target}: cannot be deleted; run as the user who owns the store") from error
    except OSError as error:
        raise StoreError(f"{target}: cannot be deleted: {error.strerror}") from error


def _copy(bundle: Bundle, target: Path) -> None:
    """Copy beside the target, verify the copy, then put it in place."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(prefix=".install-", dir=target.parent) as work:
            copy = Path(work) / target.name
            copy.mkdir(mode=0o755)
            _copy_files(bundle.folder, copy)
            read_bundle(copy)
            _put_in_place(copy, target, Path(work) / "old")
    except PermissionError as error:
        raise PermissionDeniedError(f"{target}: cannot be written; run as the user who owns the store") from error
    except OSError as error:
        raise StoreError(f"{target}: cannot be written: {error.strerror}") from error


def _copy_files(source: Path, copy: Path) -> None:
    for name in (*_FILES, *_OPTIONAL_FILES):
        if name in _FILES or (source / name).is_file():
            shutil.copyfile(source / name, copy / name)
            with (copy / name).open("rb") as file:
                os.fsync(file.fileno())


def _put_in_place(copy: Path, target: Path, old: Path) -> None:
    if target.exists():
        target.rename(old)
    try:
        copy.rename(target)
    except OSError:
        if old.exists():
            old.rename(target)
        raise


def _wanting(config: Config, name: str | None) -> Config:
    if name is None:
        return config
    return config.model_copy(update={"model": config.model.model_copy(update={"bundle": name})})


def _list(config: Config, in_use: Path | None) -> list[dict[str, object]]:
    """Installed bundles, built-in ones, and the one in use should it lie elsewhere."""
    folders = dict.fromkeys(bundle_folders(models_folder(config)), "installed")
    folders |= dict.fromkeys(bundle_folders(BUILT_IN), "built in")
    if in_use is not None:
        folders.setdefault(in_use, "model.bundle")
    return [_document(folder, origin, in_use) for folder, origin in folders.items()]


def _document(folder: Path, origin: str, in_use: Path | None) -> dict[str, object]:
    document: dict[str, object] = {"name": folder.name, "origin": origin, "folder": str(folder)}
    try:
        bundle = read_bundle(folder)
    except ModelError as error:
        return document | {"in_use": False, "summary": f"DAMAGED: {error}", "model": None, "accuracy": None}
    accuracy = bundle.manifest.accuracy
    return document | {
        "in_use": folder == in_use,
        "summary": f"{bundle.manifest.embedding_dim}-d, {bundle.manifest.variant}, {explain_accuracy(bundle)}",
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
