"""``kiosk diagnostics``: one file for whoever helps, in which nobody is named.

What goes in is chosen by what it can hold, not cleaned of what it should not: numbers, words of fixed lists, and texts
about the kiosk's own state that hold no person by their making (``events.Words``). Of these, addresses are taken out.
"""

from __future__ import annotations

import io
import json
import os
import platform
import re
import sys
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import click
from pydantic.fields import FieldInfo

from kiosk import __version__
from kiosk.board import Board
from kiosk.clock import SystemClock
from kiosk.commands.check import Status, examine
from kiosk.commands.options import PATH, common_options, json_option, load, print_json
from kiosk.commands.stores import open_store
from kiosk.config import Config, Section
from kiosk.errors import KioskError, OutputError, PermissionDeniedError, UsageError
from kiosk.files import write_private
from kiosk.preview import PreviewClient, socket_path

_MESSAGES_OF = {"detector", "backups", "clock", "power", "heat", "storage"}
"""Of these checks the words, too: they hold nothing but numbers, times and names of disks."""
_SET = "(set)"
_PLACES = re.compile(r"\w+://\S+|\[?(?:[0-9A-Fa-f]{0,4}:){2,}[0-9A-Fa-f]{0,4}\]?|\d{1,3}(?:\.\d{1,3}){3}")
"""Addresses: URLs, IPv6, IPv4."""
_README = """\
What is in here, about a kiosk and about nobody:

about.json      versions, the computer, its storage, heat and power, the clock
config.json     the configuration: numbers, switches and words of fixed lists; of all else only whether it is set
check.json      what `kiosk check` says; of most checks only the state, for their words may name people or places
health.json     what the running kiosk says of itself, without site and device; addresses are taken out
store.json      the store's version, size, number of rows, and whether all of it is as it was written
packages.json   what is installed, with versions

Left out is the log (`journalctl -u kiosk`), for it holds ids of people.
"""


@click.command("diagnostics")
@click.argument("file", type=PATH)
@json_option
@common_options
def command(*, file: Path, as_json: bool, config_path: Path | None, verbose: int) -> None:
    """Write a file for whoever helps, without anything personal.

    FILE ends in .zip and must not be there yet. In it: versions, the computer, the configuration without secrets,
    addresses and names, what `kiosk check` finds, what the running kiosk says of itself, and how the store is, in
    numbers. No ids, names, codes, templates or pictures, and no log. Only you can read it; look into it before you
    send it.
    """
    if file.suffix != ".zip":
        raise UsageError(f"{file}: the file's name must end in .zip")
    try:
        if file.exists():
            raise OutputError(f"{file}: is there already; diagnostics are not written over a file")
        if not file.absolute().parent.is_dir():
            raise OutputError(f"{file}: there is no such folder; choose another one")
    except PermissionError as error:
        message = f"{file}: this user may not enter that folder; choose another one, as in /tmp/{file.name}"
        raise PermissionDeniedError(message) from error
    config = load(config_path, verbose)
    documents = dict(_collect(config))
    try:
        write_private(file, _pack(documents))
    except OSError as error:
        raise OutputError(f"{file}: {error.strerror}; choose another place") from error
    if as_json:
        print_json({"file": str(file), "bytes": file.stat().st_size, "documents": documents})
        return
    click.echo(f"{file}: {file.stat().st_size} bytes, readable by you alone")
    click.echo(_README, nl=False)


def _collect(config: Config) -> Iterator[tuple[str, Any]]:
    """The documents, by the names of their files. One that cannot be had says so, and the others are there."""
    yield "about.json", _about(config)
    yield "config.json", _shown(config)
    yield "check.json", _check(config)
    yield "health.json", _health(config)
    yield "store.json", _store(config)
    yield "packages.json", dict(sorted((one.metadata["Name"], one.version) for one in distributions()))


def _pack(documents: Mapping[str, Any]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("README.txt", _README)
        for name, document in documents.items():
            archive.writestr(name, json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    return content.getvalue()


def _about(config: Config) -> dict[str, Any]:
    board, clock = Board(), SystemClock()
    return {
        "kiosk": __version__,
        "python": sys.version.partition(" ")[0],
        "machine": platform.machine(),
        "kernel": platform.release(),
        "system": platform.freedesktop_os_release().get("PRETTY_NAME") if Path("/etc/os-release").exists() else None,
        "processors": os.cpu_count(),
        "memory_mib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20,
        "up_s": round(clock.boottime_s()),
        "at": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "clock_synchronized": clock.synchronized(),
        "timezone": config.device.timezone,
        "board": {
            "model": board.model,
            "temperature_c": board.temperature_c,
            **asdict(board.condition()),
            "memories": [asdict(memory) for memory in board.memories],
        },
    }


def _shown(section: Section) -> dict[str, Any]:
    """Numbers and switches as they are; words where they come from a fixed list, or are what they are by default."""
    return {name: _value(getattr(section, name), field) for name, field in type(section).model_fields.items()}


def _value(value: object, field: FieldInfo) -> object:
    if isinstance(value, Section):
        return _shown(value)
    if isinstance(value, tuple):
        return [_value(one, field) for one in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    # The type of a word from a fixed list names them all.
    known = value == field.default or f"'{value}'" in str(field.annotation)
    return str(value) if known else _SET


def _check(config: Config) -> list[dict[str, Any]]:
    return [
        {
            "name": finding.name,
            "status": finding.status.value,
            "message": finding.message if finding.name in _MESSAGES_OF and finding.status is not Status.FAIL else None,
            "exit_code": finding.exit_code,
        }
        for finding in examine(config, source=None)
    ]


def _health(config: Config) -> dict[str, Any]:
    try:
        with PreviewClient(socket_path(Path(config.store.path))) as client:
            report = client.health()
    except KioskError as error:
        return {"error": type(error).__name__}
    places = sorted(_texts(config), key=len, reverse=True)
    now = {name: value for name, value in report.now.items() if name not in {"site", "device"}}
    history = [time.model_dump(mode="json") for time in report.history]
    return {"now": _without_places(now, places), "history": history, "broker": report.broker}


def _store(config: Config) -> dict[str, Any]:
    path = Path(config.store.path)
    try:
        with open_store(config) as store:
            return {
                "schema_version": store.schema_version(),
                "bytes": path.stat().st_size,
                "rows": store.row_counts(),
                "whole": store.integrity_problem() is None,
                "outbox": {
                    name: value for name, value in asdict(store.outbox_counts()).items() if isinstance(value, int)
                },
                "backups": len(store.backups.all()),
            }
    except (KioskError, OSError) as error:
        return {"error": type(error).__name__}


def _texts(section: Section) -> Iterator[str]:
    """Every free text of the configuration; of a path its end, of an address its host."""
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, Section):
            yield from _texts(value)
        elif isinstance(value, str | Path) and _value(value, field) == _SET:
            text = str(value)
            hosts = re.findall(r"//(?:[^/]*@)?([^/:@]+)", text)
            yield from (part for part in (text, Path(text).name, *hosts) if len(part) > 2)


def _without_places(value: object, places: list[str]) -> Any:  # noqa: ANN401 - JSON
    match value:
        case str() if not re.fullmatch(r"[0-9TZ:.-]+", value):  # a time is no address
            told = _PLACES.sub("(…)", value)
            for place in places:
                told = told.replace(place, "(…)")
            return told
        case dict():
            return {name: _without_places(one, places) for name, one in value.items()}
        case list():
            return [_without_places(one, places) for one in value]
        case _:
            return value
