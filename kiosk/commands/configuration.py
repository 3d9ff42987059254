"""``kiosk config``: what is configured and where it comes from, and files of earlier versions brought up to date."""

from __future__ import annotations

import contextlib
import difflib
import os
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import click
from pydantic import BaseModel

from kiosk import logs
from kiosk.camera import shown_source
from kiosk.commands.options import common_options, count, json_option, print_json
from kiosk.config import FORMER, Config, Loaded, Origin, load_traced, rewrite
from kiosk.errors import ConfigError, InputError, OutputError, PermissionDeniedError
from kiosk.files import sync

_HIDDEN = "(hidden)"


@click.group("config")
def command() -> None:
    """Show and check the configuration; update an old file."""


@command.command("show")
@json_option
@common_options
def show(*, as_json: bool, config_path: Path | None, verbose: int) -> None:
    """Show every setting in force, and where it comes from: a line of the file, a variable, or its default.

    A user name, and what a camera's address says of its password, is left out.
    """
    loaded = _load(config_path, verbose)
    settings = list(_settings(loaded))
    if as_json:
        print_json({"file": _file(loaded), "settings": settings, "former": list(loaded.former)})
        return
    for setting in settings:
        click.echo(f"{setting['name']}: {_text(setting['value'])}\t({setting['origin']})")
    _tell_former(loaded)


@command.command("check")
@json_option
@common_options
@click.pass_context
def check(ctx: click.Context, *, as_json: bool, config_path: Path | None, verbose: int) -> None:
    """Check the configuration alone: every problem at once, and exit code 78 if there is any.

    Nothing is opened or tried; `kiosk check` does that.
    """
    try:
        loaded = _load(config_path, verbose)
    except ConfigError as error:
        if not as_json:
            raise
        print_json({"ok": False, "problems": str(error).splitlines(), "former": []})
        ctx.exit(error.exit_code)
    if as_json:
        print_json({"ok": True, "problems": [], "former": list(loaded.former)})
        return
    changed = [path for path, origin in loaded.origins.items() if origin != Origin()]
    click.echo(f"{_file(loaded) or 'no file'}: {count(len(changed), 'setting')}, no problem")
    _tell_former(loaded)


@command.command("migrate")
@click.option("--dry-run", is_flag=True, help="Show what would change, and change nothing.")
@common_options
def migrate(*, dry_run: bool, config_path: Path | None, verbose: int) -> None:
    """Rewrite settings of earlier versions in the file to what they are called now.

    Comments and layout stay. The file as it was is kept beside it, as FILE.<time>.bak. The new one is read back before
    it takes the place of the old one, and has to mean the same.
    """
    loaded = _load(config_path, verbose)
    if loaded.path is None:
        raise InputError("there is no configuration file: the built-in defaults and the environment count")
    path = loaded.path.resolve()
    with path.open(encoding="utf-8", newline="") as file:
        before = file.read()
    after = rewrite(before, loaded.document, FORMER)
    _tell_left(loaded)
    if after.left:
        by_hand = ", ".join(f"{path}:{line}: {'.'.join(name)}" for line, name in sorted(after.left.items()))
        raise InputError(f"to be changed by hand, for it shares its line with others or takes several: {by_hand}")
    if after.text == before:
        click.echo(f"{loaded.path}: up to date")
        return
    with _written_beside(path, after.text) as draft:
        _require_same(loaded, draft, path)
        if dry_run:
            for line in difflib.unified_diff(
                before.splitlines(), after.text.splitlines(), str(path), "new", lineterm=""
            ):
                click.echo(line)
            return
        kept = path.with_name(f"{path.name}.{datetime.now(UTC):%Y%m%dT%H%M%SZ}.bak")
        kept.hardlink_to(path)
        draft.replace(path)
        sync(path.parent)
    click.echo(f"{path}: rewritten; as it was it is in {kept}")


def _load(config_path: Path | None, verbose: int) -> Loaded:
    logs.configure(verbose - 1)
    return load_traced(config_path, os.environ)


def _file(loaded: Loaded) -> str | None:
    return None if loaded.path is None else str(loaded.path)


def _settings(loaded: Loaded) -> Iterator[dict[str, object]]:
    for path, origin in loaded.origins.items():
        found, value, secret = _value(loaded.config, path)
        # Of a section its fields are shown, unless there is none.
        if not found or isinstance(value, BaseModel):
            continue
        name = ".".join(path)
        if name == "camera.source":
            value = shown_source(loaded.config.camera.source)
        elif secret and value is not None:
            value = _HIDDEN
        yield {"name": name, "value": value, "origin": _origin(loaded, origin)}


def _value(config: Config, path: tuple[str, ...]) -> tuple[bool, object, bool]:
    """Whether there is such a field (a section may be null), its value as JSON has it, and whether it is a secret."""
    section: BaseModel = config
    for part in path[:-1]:
        nested = getattr(section, part)
        if not isinstance(nested, BaseModel):
            return False, None, False
        section = nested
    value = getattr(section, path[-1])
    if isinstance(value, BaseModel):
        return True, value, False
    return True, section.model_dump(mode="json")[path[-1]], not type(section).model_fields[path[-1]].repr


def _origin(loaded: Loaded, origin: Origin) -> str:
    if origin.variable is not None:
        return origin.variable
    return "default" if origin.line is None else f"{loaded.path}:{origin.line}"


def _text(value: object) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def _tell_former(loaded: Loaded) -> None:
    for text in loaded.former:
        click.echo(f"note: {text}", err=True)


def _tell_left(loaded: Loaded) -> None:
    """Former names in the environment are no file's."""
    for text in loaded.former:
        if loaded.path is None or not text.startswith(f"{loaded.path}:"):
            click.echo(f"note: {text}", err=True)


@contextlib.contextmanager
def _written_beside(path: Path, text: str) -> Iterator[Path]:
    """A new file with the old one's owner and permissions; gone after the block, unless it was renamed."""
    about = path.stat()
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}-", suffix=".yaml", dir=path.parent)
        draft = Path(name)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
                os.fchmod(descriptor, about.st_mode & 0o777)
                if os.geteuid() == 0:
                    os.fchown(descriptor, about.st_uid, about.st_gid)
                file.write(text)
                file.flush()
                os.fsync(descriptor)
            yield draft
        finally:
            draft.unlink(missing_ok=True)
    except PermissionError as error:
        raise PermissionDeniedError(f"{path}: cannot be rewritten; run as the user who owns its folder") from error
    except OSError as error:
        raise OutputError(f"{path}: cannot be rewritten: {error.strerror}") from error


def _require_same(loaded: Loaded, draft: Path, path: Path) -> None:
    by_hand = f"{path}: cannot be rewritten by itself; change by hand: {'; '.join(loaded.former)}"
    try:
        again = load_traced(draft, os.environ)
    except ConfigError:
        raise InputError(by_hand) from None
    if again.config != loaded.config or any(text.startswith(f"{draft}:") for text in again.former):
        raise InputError(by_hand)
