"""Which bundle the kiosk recognizes with: the one that is asked for, or another while that one does not do.

What has happened with bundles on this machine is noted in the models folder (``.use.json``): which ones carried a start
to its end, whether one is just being started, which ones are refused and why, and which one stands in. A bundle that is
refused stays where it is; installing it again has it tried anew. Daemon and commands choose by the same notes, so that
nobody is enrolled with a model that the door does not use.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from kiosk.biometrics import ModelId
from kiosk.bundle import (
    BUILT_IN,
    NO_CHANGES,
    Bundle,
    Changes,
    bundle_folders,
    place,
    preference,
    read_bundle,
    select_bundle,
)
from kiosk.errors import ModelError
from kiosk.files import replace_beside

NOTES = ".use.json"
FORMER = ".former"
"""In the models folder: for each name the build that the installed one took the place of, to go back to."""

_LOCK_TIMEOUT_S = 2.0
_MAX_NOTES_BYTES = 64 * 1024
_MAX_GOOD = 5
_MAX_REFUSED = 32
_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


class _Record(BaseModel):
    # A later version may note more.
    model_config = ConfigDict(extra="ignore", frozen=True)


class Mark(_Record):
    """A bundle. ``folder``: where it lay; its build may lie elsewhere by now."""

    fingerprint: str
    model: str
    folder: str

    @classmethod
    def of(cls, bundle: Bundle) -> Mark:
        return cls(fingerprint=bundle.fingerprint, model=bundle.model_id, folder=str(bundle.folder.absolute()))


class Refusal(_Record):
    """Why a bundle is not used, since when (UTC, RFC 3339); ``by_hand``: by somebody, not by its own failure."""

    model: str
    why: str
    at: str
    by_hand: bool = False


class Starting(_Record):
    """A start that has not come to its end: how many in a row, this one included."""

    fingerprint: str
    attempts: int


class Notes(_Record):
    """``good``: bundles that carried a start to its end, the last one first."""

    good: tuple[Mark, ...] = ()
    starting: Starting | None = None
    refused: Mapping[str, Refusal] = {}
    stand_in: Mark | None = None

    def with_good(self, bundle: Bundle) -> Notes:
        """A start came to its end."""
        mark = Mark.of(bundle)
        others = tuple(one for one in self.good if one.fingerprint != mark.fingerprint)
        return self.model_copy(update={"good": (mark, *others)[:_MAX_GOOD], "starting": None})

    def with_refused(self, wanted: Bundle | None, refusal: Refusal, stand_in: Bundle) -> Notes:
        """``wanted``: None where there is no telling which bundle it is, for it cannot be read."""
        refused = dict(self.refused)
        if wanted is not None:
            refused.pop(wanted.fingerprint, None)
            refused[wanted.fingerprint] = refusal
        kept = dict(list(refused.items())[-_MAX_REFUSED:])
        return self.model_copy(update={"refused": kept, "stand_in": Mark.of(stand_in)})

    def with_installed(self, bundle: Bundle) -> Notes:
        """It was put there (again) by hand: what was held against it counts no more."""
        refused = {key: value for key, value in self.refused.items() if key != bundle.fingerprint}
        return self.model_copy(update={"refused": refused, "stand_in": None})


@dataclass(frozen=True, slots=True)
class Choice:
    """The bundle in use. ``asked``: the one asked for, None where that cannot be read. ``why``: where these are not the
    same, the reason in words; ``by_hand``: somebody's.
    """

    bundle: Bundle
    asked: Bundle | None
    why: str | None = None
    by_hand: bool = False

    @property
    def unwanted(self) -> bool:
        """Nobody has asked for this bundle in any way."""
        return self.why is not None and not self.by_hand


def choose_bundle(
    wanted: str, models_folder: Path, changes: Changes = NO_CHANGES, notes: Notes | None = None
) -> Choice:
    """The bundle of ``model.bundle``, or what stands in for it. ``notes``: those of the models folder, or planned ones.

    Raises:
        ModelError: it is missing, damaged or refused, and nothing stands in for it.
    """
    noted = read_notes(models_folder) if notes is None else notes
    others: Iterator[Bundle] = iter(())
    bundle: Bundle | None = None
    try:
        bundle = select_bundle(wanted, models_folder, changes)
    except ModelError as error:
        problem, by_hand = error, False
    else:
        refusal = noted.refused.get(bundle.fingerprint)
        if refusal is None:
            return Choice(bundle, bundle)
        problem, by_hand = ModelError(describe_refusal(bundle.model_id, refusal)), refusal.by_hand
        others = (one for one in find_others(noted, models_folder, set()) if place(one.folder) not in changes)
    stand_in = None if noted.stand_in is None else find_build(noted.stand_in, models_folder)
    if stand_in is None or stand_in.fingerprint in noted.refused:
        stand_in = next(others, None)
    if stand_in is None:
        raise problem
    return Choice(stand_in, bundle, str(problem), by_hand)


def describe_refusal(model_id: ModelId, refusal: Refusal) -> str:
    how = "set aside by hand" if refusal.by_hand else "refused"
    return f"{model_id} is {how} since {refusal.at} ({refusal.why})"


def find_build(mark: Mark, models_folder: Path) -> Bundle | None:
    """The very build a mark is of, intact, wherever it lies now."""
    return next((one for one in _intact(models_folder, [mark]) if one.fingerprint == mark.fingerprint), None)


def find_others(notes: Notes, models_folder: Path, but: set[str]) -> Iterator[Bundle]:
    """Intact bundles to go back to, the best first: those that carried the last starts, the latest first; former
    builds; then as ``auto`` prefers them, the built-in one last. ``but``: fingerprints left out, with all refused ones.
    """
    left_out = but | set(notes.refused)
    intact = {one.fingerprint: one for one in _intact(models_folder, notes.good) if one.fingerprint not in left_out}
    for mark in notes.good:
        if mark.fingerprint in intact:
            yield intact.pop(mark.fingerprint)
    former = models_folder / FORMER
    yield from sorted(
        intact.values(), key=lambda one: (one.built_in, one.folder.parent != former, not one.measured, preference(one))
    )


def former_folder(models_folder: Path, name: str) -> Path:
    """Where the build that one of this name took the place of is kept."""
    return models_folder / FORMER / name


def _intact(models_folder: Path, marks: tuple[Mark, ...] | list[Mark]) -> Iterator[Bundle]:
    """All bundles whose files are as their manifests say; those of marks first."""
    folders = [Path(mark.folder) for mark in marks]
    for parent in (models_folder, models_folder / FORMER, BUILT_IN):
        folders += bundle_folders(parent)
    for folder in dict.fromkeys(folders):
        with contextlib.suppress(ModelError):
            yield read_bundle(folder)


def read_notes(models_folder: Path) -> Notes:
    """What is noted; nothing where anybody but this user and root may have written it, or it cannot be read."""
    try:
        descriptor = os.open(models_folder / NOTES, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            about = os.fstat(descriptor)
            folder = models_folder.stat()
            if about.st_uid not in {0, os.geteuid(), folder.st_uid} or about.st_mode & _WRITABLE_BY_OTHERS:
                return Notes()
            return Notes.model_validate(json.loads(file.read(_MAX_NOTES_BYTES)))
    except (OSError, ValueError, ValidationError, RecursionError):
        return Notes()


def update_notes(models_folder: Path, change: Callable[[Notes], Notes]) -> Notes:
    """Change what is noted, and return it.

    Raises:
        OSError: it cannot be written; what was noted before stays.
    """
    with _briefly_alone(models_folder):
        notes = change(read_notes(models_folder))
        replace_beside(models_folder / NOTES, notes.model_dump_json(indent=1).encode())
    return notes


@contextlib.contextmanager
def changing(models_folder: Path) -> Iterator[None]:
    """Be the only one who changes the installed bundles.

    Raises:
        BlockingIOError: somebody else does.
    """
    descriptor = os.open(models_folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _briefly_alone(models_folder: Path) -> Iterator[None]:
    """No two change the notes at a time; but no start of the kiosk waits for a copy that hangs."""
    deadline_s = time.monotonic() + _LOCK_TIMEOUT_S
    with contextlib.ExitStack() as stack:
        while time.monotonic() < deadline_s:
            try:
                stack.enter_context(changing(models_folder))
                break
            except BlockingIOError:
                time.sleep(0.02)
        yield
