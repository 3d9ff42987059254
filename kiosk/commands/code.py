"""What ``kiosk subjects code`` does: gives a person a PIN or a badge, the second way in, or takes them away."""

from __future__ import annotations

import os
import sys
import time
from io import BytesIO
from pathlib import Path

import click
import segno

from kiosk.biometrics import SubjectId
from kiosk.codes import (
    MAX_BADGE,
    MIN_BADGE,
    Entry,
    Kind,
    find_badge,
    hash_secret,
    new_pin,
    new_salt,
    new_token,
    parse_entry,
    written,
)
from kiosk.commands.options import print_json
from kiosk.config import CodeSection
from kiosk.errors import InputError, OutputError, UsageError
from kiosk.store import Store

_PICTURES = (".png", ".svg")
_MODULE_PX = 10
# Read from a few scuffed badges, too: a quarter of it may be lost (level Q).
_CORRECTION = "Q"


def give_pin(store: Store, subject_id: SubjectId, *, as_json: bool) -> None:
    """Make a PIN, and show it this once."""
    pin, salt = new_pin(), new_salt()
    number = store.set_pin(subject_id, salt=salt, digest=hash_secret(pin, salt), now_ms=_now_ms())
    if as_json:
        print_json({"subject_id": subject_id, "kind": Kind.PIN, "code": written(number, pin)})
        return
    click.echo(written(number, pin))
    click.echo(f"{subject_id}'s number and PIN; it is not shown again, and one from before is void", err=True)


def give_card(store: Store, subject_id: SubjectId, *, as_json: bool) -> None:
    """Take the id of a card from standard input, where no list of processes shows it."""
    entry = _read_card()
    _set_badge(store, subject_id, entry.secret)
    _tell_badge(subject_id, "the card", as_json=as_json)


def give_qr(store: Store, subject_id: SubjectId, path: Path, *, as_json: bool) -> None:
    """Write a badge with a random token; the file is as good as the badge, and stored nowhere else."""
    kind = path.suffix.lower()
    if kind not in _PICTURES:
        raise UsageError(f"subjects code: --qr {path}: the name must end in .svg or .png")
    token, picture = new_token(), BytesIO()
    segno.make_qr(token, error=_CORRECTION).save(picture, kind=kind[1:], scale=_MODULE_PX)
    _write_private(path, picture.getvalue())
    try:
        _set_badge(store, subject_id, token)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    _tell_badge(subject_id, f"the badge in {path} (print it, then delete the file)", as_json=as_json)


def take_away(store: Store, subject_id: SubjectId, *, as_json: bool) -> None:
    """Remove all codes of a person."""
    removed = store.remove_codes(subject_id)
    if not removed:
        raise InputError(f"{subject_id}: has no code; `kiosk subjects list` shows who has one")
    if as_json:
        print_json({"subject_id": subject_id, "removed": removed})
    else:
        click.echo(f"{subject_id}: {' and '.join(removed)} removed")


def tell_where_to_enter(section: CodeSection, *, qr: bool) -> None:
    """Say so where there is nothing yet to enter this code at. The camera reads only badges of ours (``qr``)."""
    if section.reader is not None or (qr and section.camera):
        return
    devices = "code.camera to true, or code.reader to a scanner" if qr else "code.reader to a keypad or card reader"
    click.echo(
        f"note: there is nothing to enter it at yet: set {devices}, and restart the kiosk (docs/second-way.md)",
        err=True,
    )


def _set_badge(store: Store, subject_id: SubjectId, token: str) -> None:
    known = find_badge(store, token)
    if known is not None and known.subject_id != subject_id:
        owner = known.subject_id
        raise InputError(f"this badge is {owner}'s; `kiosk subjects code {owner} --remove` takes it away")
    salt = (store.badge_salts() or [new_salt()])[0]
    store.set_badge(subject_id, salt=salt, digest=hash_secret(token, salt), now_ms=_now_ms())


def _read_card() -> Entry:
    if sys.stdin.isatty():
        line = click.prompt("present the card (nothing is shown)", hide_input=True, err=True, default="")
    else:
        line = sys.stdin.buffer.readline(MAX_BADGE + 3).decode("ascii", "replace")
    entry = parse_entry(line)
    if entry is None or entry.kind is not Kind.BADGE:
        raise InputError(
            f"subjects code --card: a card's id is {MIN_BADGE} to {MAX_BADGE} letters, digits and signs without spaces "
            "on one line of standard input, and not of a PIN's form"
        )
    return entry


def _write_private(path: Path, content: bytes) -> None:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(content)
    except FileExistsError:
        raise OutputError(f"{path}: is there already; a badge is not written over a file") from None
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}") from error


def _tell_badge(subject_id: SubjectId, what: str, *, as_json: bool) -> None:
    if as_json:
        print_json({"subject_id": subject_id, "kind": Kind.BADGE})
    else:
        click.echo(f"{subject_id}: {what} is valid from now on; one from before is void")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
