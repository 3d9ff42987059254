"""``kiosk calibrate``: the threshold for this gallery, refined with its own impostor scores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kiosk.clock import SystemClock
from kiosk.commands.options import PATH, Number, WholeNumber, common_options, json_option, load, print_json
from kiosk.commands.stores import open_store
from kiosk.config import Config
from kiosk.errors import ConfigError, InputError, UsageError

if TYPE_CHECKING:
    from kiosk.biometrics import Embedding, ModelId, Template
    from kiosk.calibration import AlikePair, Calibration, StrangerSearches
    from kiosk.gallery import Gallery
    from kiosk.pipeline import Pipeline
    from kiosk.store import Store
    from kiosk.thresholds import SearchScores

_ALIKE_SHOWN = 20
_CHANGES_SHOWN = 10


@dataclass(frozen=True, slots=True)
class _Change:
    """A past decision that the new threshold would have turned over."""

    event_id: str
    occurred_at: str
    subject_id: str | None
    score: float
    threshold: float
    accepted: bool
    """What it would be now."""


@dataclass(frozen=True, slots=True)
class _Findings:
    """All that is known of this gallery's threshold at one FPIR. Thresholds are without the crowd's share."""

    gallery: Gallery
    templates: list[Template]
    search: SearchScores
    fpir: float
    bundle_threshold: float
    present: float
    """In force: at ``match.fpir``, with what was applied before."""
    calibration: Calibration | None
    problem: str | None
    """Why there is no calibration."""
    searches: StrangerSearches
    alike: list[AlikePair]
    judged: int
    changes: list[_Change]

    @property
    def proposed(self) -> float:
        shift = self.gallery.score_shift if self.calibration is None else self.calibration.score_shift
        return self.bundle_threshold + shift


@click.command("calibrate")
@click.option(
    "--fpir",
    type=Number(1e-6, 0.5),
    help="Share of strangers' searches that may name somebody. Default: match.fpir.",
)
@click.option(
    "--strangers",
    type=PATH,
    metavar="DIR",
    help="Photos of people who are not enrolled, DIR/*.jpg or DIR/<person>/*.jpg; read, never stored.",
)
@click.option(
    "--events", "events", type=WholeNumber(0), default=100, show_default=True, help="Past events to judge again."
)
@click.option(
    "--apply", "apply_it", is_flag=True, help="Use the result from now on; the running kiosk follows at once."
)
@click.option("--reset", is_flag=True, help="Forget what was applied: the bundle's own figures count again.")
@click.option("--plot", type=PATH, metavar="OUT.png", help="Draw the scores and the thresholds.")
@json_option
@common_options
def command(
    *,
    fpir: float | None,
    strangers: Path | None,
    events: int,
    apply_it: bool,
    reset: bool,
    plot: Path | None,
    as_json: bool,
    config_path: Path | None,
    verbose: int,
) -> None:
    """Find the threshold for this gallery and this door.

    Every enrolled photo is searched among all the other subjects, as a stranger would be. Where that scores higher than
    the model's own measurements say, the threshold must rise, and this says by how much, with a 95 % interval. It names
    subjects who cannot be told apart, and what the change would have done to the last events.

    Nothing changes without --apply.
    """
    if apply_it and reset:
        raise UsageError("calibrate: --apply and --reset exclude each other")
    from kiosk.drawing import check_plot_path
    from kiosk.pipeline import build_pipeline

    config = load(config_path, verbose)
    if apply_it and fpir not in {None, config.match.fpir}:
        raise UsageError(f"calibrate: --apply keeps match.fpir ({config.match.fpir:g}); set it to {fpir:g}, then apply")
    check_plot_path(plot)
    if config.match.threshold != "auto":
        raise ConfigError(
            f"match.threshold is {config.match.threshold:g}, so nothing follows from a calibration; set it to auto"
        )
    pipeline = build_pipeline(config)
    with open_store(config, writable=apply_it or reset) as store:
        if reset:
            _reset(store, pipeline.embedder.model_id)
        findings = _Desk(config, pipeline, store).measure(fpir or config.match.fpir, strangers, events)
        if apply_it:
            _apply(store, findings)
        if plot is not None:
            _draw(plot, findings)
    if as_json:
        print_json(_document(findings, applied=apply_it))
        return
    _print(findings)
    if apply_it:
        click.echo("applied: automatic thresholds follow it from now on")
    elif not reset and findings.calibration is not None:
        click.echo("nothing changed; --apply makes the kiosk use it")


@dataclass(frozen=True, slots=True)
class _Desk:
    """What a calibration works with."""

    config: Config
    pipeline: Pipeline
    store: Store

    def measure(self, fpir: float, strangers: Path | None, events: int) -> _Findings:
        """Raises InputError: nobody is enrolled, or the strangers' photos cannot be used."""
        from kiosk.calibration import calibrate, find_alike, search_strangers, search_without_own
        from kiosk.gallery import Gallery

        search = self.pipeline.bundle.search_scores()
        today = SystemClock().trusted_date(self.config.device.timezone)
        stored = self.store.gallery(self.pipeline.embedder.model_id, today=today)
        # Read once: somebody may be enrolled or erased meanwhile.
        templates = [t for t in self.store.templates(stored.model_id) if t.subject_id not in stored.lapsed]
        gallery = Gallery(stored.model_id, templates, score_shift=stored.score_shift)
        if not len(gallery):
            raise InputError("nobody is enrolled with the model in use; `kiosk enroll ID PHOTO...` enrolls")
        searches = search_without_own(templates, gallery, search)
        photos = 0
        if strangers is not None:
            embeddings, people = _embed_strangers(self.pipeline, strangers)
            photos = len(embeddings)
            searches += search_strangers(embeddings, people, gallery, search)
        problem, calibration = None, None
        try:
            now = datetime.now(UTC).isoformat(timespec="seconds")
            calibration = calibrate(searches, gallery, search, created_at=now, stranger_photos=photos)
        except InputError as error:
            problem = str(error)
        threshold = search.threshold(gallery.subjects_by_templates, fpir)
        shift = gallery.score_shift if calibration is None else calibration.score_shift
        present = search.threshold(gallery.subjects_by_templates, self.config.match.fpir) + gallery.score_shift
        judged, changes = _judge_again(self.store, gallery.model_id, events, threshold + shift - present)
        alike = find_alike(gallery, search, threshold + shift)
        return _Findings(
            gallery=gallery,
            templates=templates,
            search=search,
            fpir=fpir,
            bundle_threshold=threshold,
            present=present,
            calibration=calibration,
            problem=problem,
            searches=searches,
            alike=alike,
            judged=judged,
            changes=changes,
        )


def _embed_strangers(pipeline: Pipeline, folder: Path) -> tuple[list[Embedding], list[str]]:
    """Photos and the person each is of: its folder's name, else its own. Photos without a good face are passed over.

    Raises:
        InputError: no folder, or no usable photo.
    """
    from kiosk.align import central_face
    from kiosk.photo import photos_below, read_photo

    embeddings: list[Embedding] = []
    people: list[str] = []
    for path in photos_below(folder):
        image = read_photo(path)
        faces = pipeline.photo_detector.detect(image)
        if not faces:
            click.echo(f"left out: {path}: no face found", err=True)
            continue
        face = central_face(faces, image.shape[1], image.shape[0])
        failure = pipeline.gate.assess(image, face).failure
        if failure is not None:
            click.echo(f"left out: {path}: the door would not compare it ({failure})", err=True)
            continue
        embeddings.append(pipeline.embedder.embed(image, face))
        people.append(path.stem if path.parent == folder else str(path.parent.relative_to(folder)))
    if not embeddings:
        raise InputError(f"{folder}: no photo with a usable face in it; give photos of people who are not enrolled")
    return embeddings, people


def _judge_again(store: Store, model_id: ModelId, count: int, difference: float) -> tuple[int, list[_Change]]:
    """The model's decisions among the last with the threshold moved by ``difference`` (what counts now already is not
    a change).
    """
    changes = []
    judged = 0
    for event_id, occurred_at, evidence in _last_decisions(store, count):
        match: Mapping[str, Any] = evidence.get("match") or {}
        score, threshold = match.get("score"), match.get("threshold")
        accepted = evidence.get("decision", "identified") == "identified"
        if score is None or threshold is None or evidence.get("reason", "match") not in {"match", "unknown"}:
            continue
        if match.get("model", model_id) != model_id:
            continue
        judged += 1
        margin, needed = match.get("margin"), evidence.get("margin_needed") or 0.0
        would = score >= threshold + difference and (margin is None or margin >= needed)
        if would != accepted:
            first = (evidence.get("candidates") or [{}])[0].get("subject_id")
            changes.append(_Change(event_id, occurred_at, first, score, threshold + difference, would))
    return judged, changes


def _last_decisions(store: Store, count: int) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Check-ins and rejections, newest first."""
    if not count:
        return
    check_ins = [(r.occurred_at, r.event_id, r.evidence) for r in store.attendance(newest_first=True, limit=count)]
    rejections = [(r.occurred_at, r.event_id, r.evidence) for r in store.rejections()]
    for occurred_at, event_id, evidence in sorted([*check_ins, *rejections], key=itemgetter(0, 1), reverse=True)[
        :count
    ]:
        yield event_id, occurred_at, evidence


def _apply(store: Store, findings: _Findings) -> None:
    if findings.calibration is None:
        raise InputError(findings.problem or "nothing was measured")
    store.add_calibration(findings.calibration)


def _reset(store: Store, model_id: ModelId) -> None:
    if store.reset_calibration(model_id):
        click.echo("forgotten: the bundle's own figures count again", err=True)
    else:
        click.echo("nothing had been applied", err=True)


def _draw(path: Path, findings: _Findings) -> None:
    from kiosk.calibration import own_scores
    from kiosk.charts import Scores, Threshold, draw_scores

    lines = [Threshold(findings.present, "in force")]
    if findings.proposed != findings.present:
        lines.append(Threshold(findings.proposed, "proposed"))
    genuine = own_scores(findings.templates, findings.gallery, findings.search)
    label = f"{len(findings.gallery)} subjects, {findings.gallery.model_id}, FPIR {findings.fpir:g}"
    panel = Scores(label, genuine, findings.searches.scores, lines, "own other photos", "other people's photos")
    draw_scores(
        path,
        [panel],
        title="Searches in this gallery",
        x_label=f"best score, less {findings.search.crowd_weight:g} of the next {findings.search.crowd_size} subjects'",
    )


def _print(findings: _Findings) -> None:
    gallery, calibration = findings.gallery, findings.calibration
    click.echo(
        f"threshold  {findings.proposed:.3f} for FPIR {findings.fpir:g} with {len(gallery)} subjects, "
        f"{gallery.template_count} templates ({gallery.model_id})"
    )
    weight, size = findings.search.crowd_weight, findings.search.crowd_size
    click.echo(f"           and {weight:g} of the mean score of the next {size} subjects, for every face anew")
    click.echo(f"in force   {findings.present:.3f}; the model's own measurements say {findings.bundle_threshold:.3f}")
    if calibration is None:
        click.echo(f"measured   not: {findings.problem}")
    else:
        low, high = calibration.interval
        click.echo(
            f"measured   {calibration.searches} searches by {calibration.people} people not in the gallery score "
            f"{calibration.measured_shift:+.3f} against the model's measurements (95 %: {low:+.3f} to {high:+.3f}); "
            f"moved by {calibration.score_shift:+.3f}"
        )
    _print_alike(findings.alike)
    accepted = sum(change.accepted for change in findings.changes)
    click.echo(
        f"events     of the last {findings.judged} decisions {len(findings.changes) - accepted} check-ins would not "
        f"have been made, and {accepted} faces that were unknown would have been"
    )
    for change in findings.changes[:_CHANGES_SHOWN]:
        what = "accepted" if change.accepted else "refused"
        click.echo(
            f"           {change.occurred_at} {change.event_id} {change.subject_id or '?'}: score {change.score:.3f}, "
            f"threshold {change.threshold:.3f}: {what}"
        )


def _print_alike(alike: list[AlikePair]) -> None:
    if not alike:
        click.echo("alike      no two subjects are too alike to tell apart")
    for pair in alike[:_ALIKE_SHOWN]:
        click.echo(
            f"alike      {pair.a} and {pair.b} score {pair.score:.3f}: too alike to tell apart; look whether they are "
            "one person, else enroll better photos of both"
        )
    if len(alike) > _ALIKE_SHOWN:
        click.echo(f"           and {len(alike) - _ALIKE_SHOWN} more pairs (--json lists all)")


def _document(findings: _Findings, *, applied: bool) -> dict[str, object]:
    return {
        "model": findings.gallery.model_id,
        "fpir": findings.fpir,
        "subjects": len(findings.gallery),
        "templates": findings.gallery.template_count,
        "threshold": round(findings.proposed, 4),
        "threshold_in_force": round(findings.present, 4),
        "threshold_of_bundle": round(findings.bundle_threshold, 4),
        "crowd_size": findings.search.crowd_size,
        "crowd_weight": findings.search.crowd_weight,
        "calibration": None if findings.calibration is None else findings.calibration.model_dump(mode="json"),
        "problem": findings.problem,
        "applied": applied,
        "alike": [{"a": p.a, "b": p.b, "score": round(p.score, 4)} for p in findings.alike],
        "events": {
            "judged": findings.judged,
            "changes": [
                {
                    "event_id": c.event_id,
                    "occurred_at": c.occurred_at,
                    "subject_id": c.subject_id,
                    "score": c.score,
                    "threshold": round(c.threshold, 4),
                    "decision": "identified" if c.accepted else "unknown",
                }
                for c in findings.changes
            ],
        },
    }
