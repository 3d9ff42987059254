"""A start of the kiosk with a bundle: what is new or did not survive is tried first; what fails gives way.

In the ordinary case, the same bundle as at the last start, which came to its end, nothing is tried and two small notes
are written. A start that ended without a word (a crash of the runtime, a signal, a power cut) has the bundle examined
in a process of its own at the next one.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from kiosk.bundle import Bundle, select_bundle
from kiosk.bundle_choice import (
    Choice,
    Notes,
    Refusal,
    Starting,
    changing,
    choose_bundle,
    describe_refusal,
    find_others,
    read_notes,
    update_notes,
)
from kiosk.errors import ConfigError, ModelError
from kiosk.events import utc_text
from kiosk.tflite import Runtime
from kiosk.trial import try_model

log = logging.getLogger(__name__)

WORK_PREFIXES = (".install-", ".remove-")
"""Folders in which a change of the bundles is prepared; without their process they are leftovers."""

Requirement = Callable[[Bundle, Bundle | None], None]
"""Of a bundle that would stand in, for which one."""

_MOST_ATTEMPTS = 3
# So long a message may be that is kept and told again and again.
_MAX_WHY = 300


class ModelStart:
    """One start of the daemon with the bundle in use.

    ``gone_back``: this very start had to leave the one before. ``unfinished``: the last start did not come to its end.
    """

    def __init__(self, models_folder: Path, choice: Choice, *, gone_back: bool, unfinished: bool) -> None:
        self._folder = models_folder
        self._open = True
        self.bundle = choice.bundle
        self.why = choice.why
        """Why the bundle is not the one that is asked for; None: it is."""
        self.unwanted = choice.unwanted
        """It is not, and nobody has said so by hand."""
        self.gone_back = gone_back
        self.unfinished = unfinished

    def succeed(self) -> None:
        """Models are loaded and have been used: from now on this bundle is one to go back to."""
        if self._open:
            self._open = False
            note(self._folder, lambda notes: notes.with_good(self.bundle))

    def end(self) -> None:
        """The process ends in order; whatever it ends for, the model did not tear it down."""
        if self._open:
            self._open = False
            note(self._folder, lambda notes: notes.model_copy(update={"starting": None}))


@contextlib.contextmanager
def model_start(
    wanted: str,
    models_folder: Path,
    *,
    threads: int,
    runtime: Runtime,
    require: Requirement = lambda _bundle, _asked: None,
) -> Iterator[ModelStart]:
    """Settle on a bundle, and note for the length of the block that the kiosk is being started with it.

    ``require``: raises ConfigError for a bundle that cannot stand in, whatever its models do, for the one that is asked
    for (None: that cannot be read).

    Raises:
        ConfigError: what stands in since an earlier start cannot any more.
        ModelError: the bundle does not do, and there is none that did once and does now.
    """
    sweep(models_folder)
    start = _settle(wanted, models_folder, threads=threads, runtime=runtime, require=require)
    try:
        yield start
    finally:
        start.end()


def _settle(wanted: str, folder: Path, *, threads: int, runtime: Runtime, require: Requirement) -> ModelStart:
    notes = read_notes(folder)
    unfinished, going_back = notes.starting, None
    choice: Choice | None = None
    try:
        choice = choose_bundle(wanted, folder, notes=notes)
        if choice.unwanted:
            require(choice.bundle, _asked(wanted, folder))
        if unfinished is not None:
            log.warning("the last start did not come to its end: %s is examined first", choice.bundle.model_id)
        _give_up_if_it_never_survives(choice.bundle, notes)
        try_model(choice.bundle, folder, threads=threads, runtime=runtime, again=unfinished is not None)
    except ModelError as error:
        failed = None if choice is None else choice.bundle
        going_back, other = _Retreat.of(failed, error), None
        # Who has never run is being set up, by somebody who should be told.
        if notes.good:
            asked = _asked(wanted, folder)
            other = _find_one_that_does(
                going_back, folder, notes, threads=threads, runtime=runtime, require=lambda one: require(one, asked)
            )
        if other is None:
            _count_anew(folder)
            raise
        notes = going_back.applied(notes, other)
        choice = Choice(other, _why(wanted, going_back, folder, notes))
    bundle, retreat = choice.bundle, going_back
    same = unfinished is not None and unfinished.fingerprint == bundle.fingerprint
    attempts = unfinished.attempts + 1 if unfinished is not None and same else 1
    starting = Starting(fingerprint=bundle.fingerprint, attempts=attempts)

    def begun(noted: Notes) -> Notes:
        gone = noted if retreat is None else retreat.applied(noted, bundle)
        return gone.model_copy(update={"starting": starting})

    note(folder, begun)
    return ModelStart(folder, choice, gone_back=retreat is not None, unfinished=unfinished is not None)


def _asked(wanted: str, folder: Path) -> Bundle | None:
    """The bundle that is asked for, whatever is noted of it; None: it cannot be read."""
    with contextlib.suppress(ModelError):
        return select_bundle(wanted, folder)
    return None


def _count_anew(folder: Path) -> None:
    """It has been told: what tore the kiosk down may be gone by the next start, and was perhaps no model at all."""

    def forgotten(noted: Notes) -> Notes:
        start = noted.starting
        return (
            noted if start is None else noted.model_copy(update={"starting": start.model_copy(update={"attempts": 0})})
        )

    note(folder, forgotten)


def _give_up_if_it_never_survives(bundle: Bundle, notes: Notes) -> None:
    """A bundle that has carried a start before is not to blame: another one would not do better."""
    start = notes.starting
    tried = start is not None and start.fingerprint == bundle.fingerprint and start.attempts >= _MOST_ATTEMPTS
    if tried and bundle.fingerprint not in {mark.fingerprint for mark in notes.good}:
        raise ModelError(
            f"{bundle.folder}: the kiosk did not survive {_MOST_ATTEMPTS} starts with this bundle; look for the reason "
            "in the log, or set model.bundle to another one"
        )


@dataclass(frozen=True, slots=True)
class _Retreat:
    """From a bundle that does not do. ``failed``: None where it cannot even be read."""

    failed: Bundle | None
    refusal: Refusal

    @classmethod
    def of(cls, failed: Bundle | None, error: ModelError) -> Self:
        model = "-" if failed is None else failed.model_id
        return cls(failed, Refusal(model=model, why=str(error)[:_MAX_WHY], at=utc_text(time.time_ns() // 10**6)))

    def applied(self, notes: Notes, other: Bundle) -> Notes:
        return notes.with_refused(self.failed, self.refusal, other)


def _find_one_that_does(
    retreat: _Retreat,
    folder: Path,
    notes: Notes,
    *,
    threads: int,
    runtime: Runtime,
    require: Callable[[Bundle], None],
) -> Bundle | None:
    for other in find_others(notes, folder, set() if retreat.failed is None else {retreat.failed.fingerprint}):
        try:
            require(other)
            try_model(other, folder, threads=threads, runtime=runtime, again=True)
        except (ModelError, ConfigError) as problem:
            log.warning("not gone back to %s: %s", other.model_id, problem)
        else:
            return other
    return None


def _why(wanted: str, retreat: _Retreat, folder: Path, notes: Notes) -> str:
    """Why the bundle that is asked for is not used; what failed now may have stood in for it itself."""
    try:
        asked = select_bundle(wanted, folder)
    except ModelError as error:
        return str(error)
    return describe_refusal(asked.model_id, notes.refused.get(asked.fingerprint, retreat.refusal))


def note(models_folder: Path, change: Callable[[Notes], Notes]) -> None:
    """Write the notes. Where that cannot be done the kiosk runs all the same, and the next start knows less."""
    try:
        # With the store's folder not there yet nothing is installed, and nothing in it was ever started with.
        if models_folder.parent.is_dir():
            models_folder.mkdir(mode=0o755, exist_ok=True)
            update_notes(models_folder, change)
    except OSError as error:
        log.warning("%s: what happens with models cannot be noted: %s", models_folder, error.strerror)


def sweep(models_folder: Path) -> None:
    """Delete what interrupted changes of the bundles left behind, unless one is going on."""
    leftovers = [path for prefix in WORK_PREFIXES for path in models_folder.glob(f"{prefix}*")]
    if not leftovers:
        return
    with contextlib.suppress(OSError), changing(models_folder):
        for path in leftovers:
            shutil.rmtree(path, ignore_errors=True)
