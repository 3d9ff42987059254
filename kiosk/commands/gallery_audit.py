"""``kiosk subjects audit``: what is wrong with the gallery, and what to do about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import click

from kiosk.clock import SystemClock
from kiosk.commands.options import common_options, count, json_option, load, print_json
from kiosk.commands.stores import open_store
from kiosk.config import Config

if TYPE_CHECKING:
    from kiosk.biometrics import ModelId, SubjectId
    from kiosk.gallery_health import Finding, Issue, Person
    from kiosk.store import Store

DEFAULT_DAYS = 30
_SHOWN = 10

_WORDS = {
    "unreadable": ("templates that cannot be read", "every template can be read"),
    "other_model": ("not recognized: templates of another model", "everybody's templates are of the model in use"),
    "consent_ended": ("consent that has ended", "no consent has ended"),
    "misfit": ("templates unlike the subject's others", "every template looks like its subject's others"),
    "alike": ("too alike to be told apart", "no two subjects are too alike to be told apart"),
    "consent_ends": ("consent that ends within 30 days", "no consent ends within 30 days"),
    "no_consent": ("no consent on record", "consent is on record wherever it is needed"),
    "weak": ("templates of poor photos", "every photo was as good as enrollment asks for"),
    "same_picture": ("nearly the same picture twice", "no two photos of a person are nearly the same"),
    "few_templates": ("too few templates", "everybody has three different photos or more"),
    "unseen": ("not recognized for long", "everybody was recognized, or the kiosk was not in use"),
    "old_templates": ("templates of other models, kept", "no templates of other models are left over"),
}
"""By issue: what is told where something was found, and where nothing was."""


@dataclass(frozen=True, slots=True)
class Audit:
    """What a look at the gallery found, and what it rests on.

    ``watched_days``: for how many days the events that are kept tell that the kiosk was in use; None: not asked, for
    the clock is not known to be right. ``unmeasured``: templates whose photo nobody measured.
    """

    findings: tuple[Finding, ...]
    model_id: ModelId
    subjects: int
    templates: int
    unmeasured: int
    days: int
    watched_days: int | None
    threshold: str

    def notes(self) -> list[str]:
        """What could not be looked at, or not as far as was asked."""
        found = []
        if self.watched_days is None:
            found.append(
                "who was not recognized for long was not looked at: the clock is not known to follow a time server "
                "(`timedatectl`)"
            )
        elif self.watched_days < self.days:
            found.append(
                f"who was not recognized for {count(self.days, 'day')} cannot be told: the events that are kept show "
                f"only {count(self.watched_days, 'day')} on which the kiosk was in use"
            )
        if self.unmeasured:
            found.append(f"{count(self.unmeasured, 'template')} carry no measures of their photos that can be judged")
        if self.subjects and self.templates == 0:
            found.append("nobody has a template that the model in use can compare")
        return found


@click.command("audit")
@click.option(
    "--days",
    type=click.IntRange(1, 36_500),
    default=DEFAULT_DAYS,
    show_default=True,
    help="Name who was not recognized on so many days on which others were.",
)
@json_option
@common_options
def command(*, days: int, as_json: bool, config_path: Path | None, verbose: int) -> None:
    """Look for what makes recognition poor; say what to do about it.

    Templates that are weak, wrong, too few, or nearly the same; people too alike to be told apart; people nobody has
    recognized for long; templates of other models, or that cannot be read; consent that ends.

    Days count only while the events that are kept tell that the kiosk was in use (docs/audit.md). Nothing is changed.
    Exit code 0 whatever is found.
    """
    config = load(config_path, verbose)
    with open_store(config) as store:
        audit = look(config, store, days)
    if as_json:
        print_json(audit_document(audit))
    else:
        _tell(audit)


def look(config: Config, store: Store, days: int = DEFAULT_DAYS) -> Audit:
    """Look at the whole gallery; reads only.

    Raises:
        ModelError: there is no model in use.
        ConfigError: the threshold is to follow from error rates that nobody has measured.
        KeyFileError: the key of the templates cannot be had.
    """
    from kiosk.gallery import Gallery
    from kiosk.gallery_health import Limits, in_order, inspect_people, inspect_templates
    from kiosk.pipeline import build_rule, build_yardstick, explain_threshold, model_id_of, open_bundle
    from kiosk.quality import ENROLLMENT_GATE

    bundle = open_bundle(config)
    model_id = model_id_of(config, bundle)
    yardstick = build_yardstick(config, bundle)
    today = SystemClock().trusted_date(config.device.timezone)
    stored, unreadable = store.stored_templates()
    calibration = store.calibration(model_id)
    shift = 0.0 if calibration is None else calibration.score_shift
    lapsed = frozenset() if today is None else store.lapsed(today)
    compared = [row for row in stored if row.model_id == model_id and row.subject_id not in lapsed]
    gallery = Gallery(model_id, compared, score_shift=shift, lapsed=lapsed)
    others = gallery.restricted(gallery.subjects[1:], lapsed=lapsed)
    limits = Limits(
        model_id,
        yardstick.same_face_score,
        yardstick.same_picture_score,
        build_rule(config, bundle, others),
        ENROLLMENT_GATE.failure,
    )
    people, watched_days = _people(store, today, unreadable)
    by_clock = today or datetime.now(ZoneInfo(config.device.timezone)).date()
    findings = [
        *inspect_templates(compared, limits),
        *inspect_people(
            people,
            model_id,
            today=by_clock,
            trusted=today is not None,
            days=days,
            need_consent=config.privacy.require_consent,
        ),
    ]
    return Audit(
        findings=tuple(in_order(findings)),
        model_id=model_id,
        subjects=len(people),
        templates=len(compared),
        unmeasured=sum(row.quality is None for row in compared),
        days=days,
        watched_days=watched_days,
        threshold=explain_threshold(config, bundle, gallery),
    )


def _people(
    store: Store, today: date | None, unreadable: Mapping[SubjectId, Sequence[int]]
) -> tuple[list[Person], int | None]:
    """Everybody, and for how many days the kiosk is known to have been in use."""
    from kiosk.biometrics import SubjectId
    from kiosk.gallery_health import Person

    history = None if today is None else store.history(today)
    recognized, presences, models = store.last_recognitions(), store.presences(), store.subject_models()
    people = []
    for subject in store.subjects():
        presence = presences.get(subject.id)
        people.append(
            Person(
                subject.id,
                models.get(subject.id, {}),
                tuple(unreadable.get(subject.id, ())),
                subject.consent_reference is not None,
                subject.consent_until,
                None if history is None else history.unseen_days(subject.id, after_seq=recognized.get(subject.id, 0)),
                0 if history is None else history.unseen_days(subject.id),
                None if presence is None else presence.last_at,
            )
        )
    known = {person.subject_id for person in people}
    # An id that is damaged itself is nobody's.
    strays = [Person(SubjectId(one), {}, tuple(ids)) for one, ids in unreadable.items() if one not in known]
    return [*people, *strays], None if history is None else history.watched_days()


def audit_document(audit: Audit) -> dict[str, object]:
    """As JSON."""
    from kiosk.gallery_health import Issue

    found = Counter(finding.issue for finding in audit.findings)
    return {
        "model": audit.model_id,
        "subjects": audit.subjects,
        "templates": audit.templates,
        "threshold": audit.threshold,
        "days": audit.days,
        "watched_days": audit.watched_days,
        "notes": audit.notes(),
        "checks": [
            {"issue": issue.value, "urgent": issue.urgent, "looked": _looked(audit, issue), "findings": found[issue]}
            for issue in Issue
        ],
        "findings": [finding_document(finding) for finding in audit.findings],
    }


def finding_document(finding: Finding) -> dict[str, object]:
    """As JSON."""
    return {
        "issue": finding.issue.value,
        "urgent": finding.issue.urgent,
        "subject_id": finding.subject_id,
        "other_id": finding.other_id,
        "templates": list(finding.templates),
        "message": finding.message,
        "figures": dict(finding.figures),
        "steps": [{"command": step.command, "when": step.when or None} for step in finding.steps],
    }


def _looked(audit: Audit, issue: Issue) -> bool:
    return issue != "unseen" or (audit.watched_days is not None and audit.watched_days >= audit.days)


def _tell(audit: Audit) -> None:
    from kiosk.gallery_health import Issue

    templates = count(audit.templates, "template")
    click.echo(f"{count(audit.subjects, 'subject')}, {templates} of {audit.model_id}; {audit.threshold}")
    if not audit.subjects:
        click.echo("nobody is enrolled; `kiosk enroll ID PHOTO...` enrolls", err=True)
        return
    found = Counter(finding.issue for finding in audit.findings)
    for issue in Issue:
        if not found[issue] and _looked(audit, issue):
            click.echo(f"ok     {_WORDS[issue][1]}")
    for note in audit.notes():
        click.echo(f"note   {note}")
    for issue, group in groupby(audit.findings, key=lambda finding: finding.issue):
        _tell_group(issue, list(group))
    who = {finding.subject_id for finding in audit.findings}
    if not who:
        click.echo("nothing is wrong with this gallery, as far as could be looked")
        return
    urgent = sum(finding.issue.urgent for finding in audit.findings)
    click.echo(
        f"{count(len(audit.findings), 'finding')} about {count(len(who), 'subject')}, {urgent} of them urgent (not "
        "recognized, or taken for another)"
    )


def _tell_group(issue: Issue, findings: Sequence[Finding]) -> None:
    click.echo(f"{'URGENT' if issue.urgent else 'better'} {_WORDS[issue][0]}: {len(findings)}")
    for finding in findings[:_SHOWN]:
        click.echo(f"       {finding.subject_id}: {finding.message}")
        for step in finding.steps:
            click.echo(f"         {step.command}{f'   # {step.when}' if step.when else ''}")
    if len(findings) > _SHOWN:
        click.echo(f"       and {len(findings) - _SHOWN} more (--json lists all)")
