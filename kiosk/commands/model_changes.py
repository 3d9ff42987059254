"""What a change of the installed bundles does to recognition, worked out before anything is touched."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from kiosk.biometrics import ModelId, SubjectId
from kiosk.bundle import BUILT_IN, NO_CHANGES, Bundle, Changes, place
from kiosk.bundle_choice import FORMER, Notes, choose_bundle, read_notes
from kiosk.clock import SystemClock
from kiosk.commands.options import ask, count, some
from kiosk.commands.stores import open_store
from kiosk.config import Config
from kiosk.errors import ConfigError, InputError, ModelError, UsageError
from kiosk.gallery import Gallery, Readiness
from kiosk.pipeline import (
    build_rule,
    check_stand_in,
    check_threshold,
    explain_accuracy,
    explain_threshold,
    model_id_of,
    models_folder,
)
from kiosk.store import Action, RunningDaemon, Store


@dataclass(frozen=True, slots=True)
class Use:
    """The bundle the kiosk would run with, and what it makes of the gallery there is."""

    bundle: Bundle
    readiness: Readiness
    threshold: float
    threshold_words: str
    why: str | None = None
    """Where it is not the bundle that is asked for, the reason."""

    @property
    def model_id(self) -> ModelId:
        return self.readiness.model_id


@dataclass(frozen=True, slots=True)
class ModelChange:
    """The kiosk before and after a change; where it would not run, the reason instead."""

    before: Use | str
    after: Use | str
    templates: Mapping[SubjectId, Mapping[ModelId, int]]
    """How many each subject has of each model."""
    threshold_follows: bool
    """``match.threshold`` is ``auto``."""
    other_scale: bool
    """``match.threshold`` is a number that was meant for another network."""
    daemon: RunningDaemon | None

    @property
    def changes_model(self) -> bool:
        return _model(self.before) != _model(self.after)

    @property
    def lost(self) -> tuple[SubjectId, ...]:
        """Who can be recognized before, and not after. Before, of a kiosk that does not run: all with templates."""
        if not self.changes_model:
            return ()
        if isinstance(self.before, Use):
            before = self.before.readiness.recognized
        else:
            before = tuple(subject for subject, counts in self.templates.items() if counts)
        after = self.after.readiness.recognized if isinstance(self.after, Use) else ()
        return tuple(subject for subject in before if subject not in set(after))


def plan_change(config: Config, changes: Changes = NO_CHANGES, notes: Notes | None = None) -> ModelChange:
    """What changes to the installed bundles, or to what is noted of them, would do.

    Raises:
        KioskError: the store cannot be read, so that nobody can tell.
    """
    if not Path(config.store.path).exists():
        return _plan(config, changes, notes, None)
    with open_store(config) as store:
        return _plan(config, changes, notes, store)


def _plan(config: Config, changes: Changes, notes: Notes | None, store: Store | None) -> ModelChange:
    templates = {} if store is None else store.subject_models()

    def use(planned: Changes, noted: Notes) -> Use | str:
        try:
            choice = choose_bundle(config.model.bundle, models_folder(config), planned, noted)
            bundle = choice.bundle
            check_threshold(config, bundle)
        except (ModelError, ConfigError) as error:
            return str(error)
        model_id = model_id_of(config, bundle)
        today = SystemClock().trusted_date(config.device.timezone)
        gallery = Gallery(model_id, ()) if store is None else store.gallery(model_id, today=today)
        threshold = build_rule(config, bundle, gallery).threshold
        words = explain_threshold(config, bundle, gallery)
        return Use(bundle, Readiness.of(model_id, templates), threshold, words, choice.why)

    noted = read_notes(models_folder(config))
    before, after = use(NO_CHANGES, noted), use(changes, noted if notes is None else notes)
    return ModelChange(
        before=before,
        after=after,
        templates=templates,
        threshold_follows=config.match.threshold == "auto",
        other_scale=isinstance(before, Use) and isinstance(after, Use) and _is_other_scale(config, before, after),
        daemon=None if store is None else store.running_daemon(),
    )


def describe_change(change: ModelChange) -> Iterator[str]:
    """In words: what is in use before and after, who is recognized, and until when a running kiosk differs."""
    before, after = change.before, change.after
    if not change.changes_model:
        yield f"in use, now and afterwards: {_describe_use(after)}"
    else:
        yield f"in use now: {_describe_use(before)}"
        yield f"in use afterwards: {_describe_use(after)}"
        if not change.threshold_follows:
            yield "match.threshold is a number and stays, but it means something else on another model's scale"
    if isinstance(after, Use):
        yield from _describe_readiness(after.readiness)
    elif change.lost:
        yield f"{count(len(change.lost), 'subject')} will NOT be recognized: {some(change.lost)}"
    daemon = change.daemon
    if daemon is not None and daemon.model_id != _model(after):
        loaded = daemon.model_id or "the model it has loaded"
        yield (
            f"the running kiosk (process {daemon.process}) goes on with {loaded} until restarted "
            "(the service: `systemctl restart kiosk`)"
        )


def describe_way_back(change: ModelChange, target: Path, config: Config) -> str | None:
    """How to return to the model in use before another was put at ``target``; None when it stays in use."""
    if not change.changes_model or not isinstance(change.before, Use):
        return None
    bundle = change.before.bundle
    if place(bundle.folder) == place(target):
        return f"going back: `kiosk model rollback` (the replaced {bundle.model_id} is kept, and its templates stay)"
    if bundle.folder.parent == target.parent / FORMER:
        return "going back: `kiosk model rollback`"
    named = bundle.folder.parent in {BUILT_IN, models_folder(config)}
    name = bundle.folder.name if named else place(bundle.folder)
    return f"going back: `kiosk model rollback`, or model.bundle: {name} (this bundle and its templates stay)"


def _is_other_scale(config: Config, before: Use, after: Use) -> bool:
    try:
        check_stand_in(config, after.bundle, before.bundle)
    except ConfigError:
        return True
    return False


def confirm_loss(
    change: ModelChange, what: str, *, yes: bool, option: str = "", spared: Collection[SubjectId] = ()
) -> None:
    """Ask whether people may be lost, the ``spared`` aside, or strangers let in.

    ``what``: ``install X``; ``option``: a way around the loss.

    Raises:
        InputError: the answer is no.
        UsageError: nobody is there to be asked.
    """
    lost = [subject for subject in change.lost if subject not in spared]
    risks = [f"{count(len(lost), 'subject')} would not be recognized any more ({some(lost)})"] if lost else []
    if change.other_scale:
        risks.append(
            "match.threshold is a number meant for another network: strangers may pass, so set it to auto first"
        )
    if yes or not risks:
        return
    told = "; ".join(risks)
    if not sys.stdin.isatty():
        raise UsageError(f"{what}: {told}; --yes does it without asking{option if lost else ''}")
    if not ask(f"{told}. {what[0].upper()}{what[1:]} all the same?"):
        raise InputError(f"{what}: not done (--yes does it without asking)")


@contextmanager
def logged(
    config: Config,
    action: Literal[Action.INSTALL_MODEL, Action.REMOVE_MODEL, Action.ROLLBACK_MODEL],
    details: Mapping[str, Any],
) -> Iterator[None]:
    """Tell the audit log of a change that the block makes in a moment; not where there is no store yet.

    Raises:
        KioskError: the log cannot be written. Then the block has not run, or is to be taken back.
    """
    if not Path(config.store.path).exists():
        yield
        return
    with open_store(config, writable=True) as store, store.log_model(action, details):
        yield


def change_document(change: ModelChange) -> dict[str, object]:
    """As JSON, with all the subjects concerned."""
    after = change.after.readiness if isinstance(change.after, Use) else None
    everybody = [subject for subject, counts in change.templates.items() if counts]
    return {
        "in_use": {"before": _use_document(change.before), "after": _use_document(change.after)},
        "subjects": {
            "with_templates": len(everybody),
            "recognized": 0 if after is None else len(after.recognized),
            "unrecognized": everybody if after is None else list(after.unrecognized),
            "lost": list(change.lost),
        },
        "daemon": None
        if change.daemon is None
        else {"process": change.daemon.process, "model": change.daemon.model_id},
    }


def _describe_use(use: Use | str) -> str:
    if isinstance(use, str):
        return f"none, the kiosk does not run ({use})"
    stands_in = "" if use.why is None else f"; it stands in for the bundle that is asked for: {use.why}"
    return f"{use.model_id}, {explain_accuracy(use.bundle)}; {use.threshold_words}{stands_in}"


def _describe_readiness(readiness: Readiness) -> Iterator[str]:
    everybody = len(readiness.recognized) + len(readiness.unrecognized)
    if not everybody:
        yield "nobody is enrolled yet"
        return
    yield f"{len(readiness.recognized)} of {count(everybody, 'subject')} have templates of {readiness.model_id}"
    if readiness.unrecognized:
        yield (
            f"{count(len(readiness.unrecognized), 'subject')} will NOT be recognized until enrolled again: "
            f"{some(readiness.unrecognized)}"
        )


def _use_document(use: Use | str) -> dict[str, object]:
    if isinstance(use, str):
        return {"bundle": None, "model": None, "folder": None, "threshold": None, "problem": use, "stands_in": None}
    return {
        "bundle": use.bundle.manifest.name,
        "model": use.model_id,
        "folder": str(use.bundle.folder),
        "threshold": round(use.threshold, 4),
        "problem": None,
        "stands_in": use.why,
    }


def _model(use: Use | str) -> ModelId | None:
    return use.model_id if isinstance(use, Use) else None
