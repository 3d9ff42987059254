"""``kiosk model``: the model bundles on this machine."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import click

from kiosk.bundle import BUILT_IN, Bundle, read_bundle
from kiosk.commands.options import PATH, common_options, json_option, load, print_json
from kiosk.commands.stores import open_store
from kiosk.config import Config
from kiosk.errors import KioskError, ModelError, PermissionDeniedError, StoreError, UsageError
from kiosk.pipeline import build_embedder, explain_accuracy, models_folder, open_bundle

_FILES = ("manifest.json", "model.tflite")
_OPTIONAL_FILES = ("report.md",)


@click.group("model", no_args_is_help=False, invoke_without_command=True)
@click.pass_context
def command(ctx: click.Context) -> None:
    """List, inspect or install model bundles."""
    if ctx.invoked_subcommand is None:
        raise UsageError("model: say what to do: list, info or install; see `kiosk model --help`")


@command.command("list")
@json_option
@common_options
def list_bundles(*, as_json: bool, config_path: Path | None, verbose: int) -> None:
    """List the bundles on this machine; * marks the one in use."""
    config = load(config_path, verbose)
    documents = _list(config)
    if as_json:
        print_json({"bundles": documents})
        return
    for document in documents:
        mark = "*" if document["in_use"] else " "
        click.echo(f"{mark} {document['name']}\t{document['origin']}\t{document['summary']}")


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
@common_options
def install(*, folder: Path, config_path: Path | None, verbose: int) -> None:
    """Check a bundle and copy it to where the kiosk looks for it.

    Hash and shapes are checked before and after the copy; a bundle that is there already is replaced.
    """
    config = load(config_path, verbose)
    bundle = read_bundle(folder)
    embedder = build_embedder(config, bundle)
    installed = models_folder(config) / bundle.manifest.name
    _copy(bundle, installed)
    click.echo(f"{bundle.manifest.name} installed in {installed}; {explain_accuracy(bundle)}")
    if config.model.bundle not in {"auto", bundle.manifest.name}:
        click.echo(f"note: model.bundle is {config.model.bundle!r}, so it is not used", err=True)
    _hint(config, str(embedder.model_id))


def _hint(config: Config, model_id: str) -> None:
    """Templates of another model are of no use to this one: say so while the operator is there."""
    try:
        with open_store(config) as store:
            models = store.template_models()
    except KioskError:
        return
    foreign = sum(count for model, count in models.items() if model != model_id)
    if foreign:
        click.echo(
            f"note: {foreign} stored templates were made with another model; this one does not compare them: "
            "enroll these people again with it",
            err=True,
        )


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


def _list(config: Config) -> list[dict[str, object]]:
    """Installed bundles, built-in ones, and the one in use should it lie elsewhere."""
    try:
        in_use = open_bundle(config).folder
    except ModelError:
        in_use = None
    folders = {path.parent: "installed" for path in sorted(models_folder(config).glob("*/manifest.json"))}
    folders |= {path.parent: "built in" for path in sorted(BUILT_IN.glob("*/manifest.json"))}
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
