"""``kiosk privacy``: what is stored about whom, why, and until when."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self
from zoneinfo import ZoneInfo

import click

from kiosk.biometrics import SubjectId, parse_subject_id
from kiosk.clock import SystemClock
from kiosk.codes import StoredCode
from kiosk.commands.erasure import due_document
from kiosk.commands.options import common_options, json_option, load, print_json
from kiosk.commands.rekey import rekey
from kiosk.commands.stores import open_store
from kiosk.config import Config
from kiosk.errors import InputError, UsageError
from kiosk.events import Method
from kiosk.evidence import MANUAL, mentioned_subjects
from kiosk.store import AttendanceRow, AuditRow, Due, History, Presence, Store, Subject, TemplateInfo

_LINE = "{:<20}  {:<24}  {:>9}  {:>6}  {:<10}  {:>6}  {:<22}  {}"
_HEAD = ("subject", "name", "templates", "events", "last seen", "unseen", "consent", "due to be erased")
_MEASURES = ("match", "quality", "pad")
"""Of a decision's evidence: what is about the person decided on. The rest compares with others."""


@dataclass(frozen=True, slots=True)
class _Holding:
    """One kind of data. ``kept``: until when."""

    name: str
    count: int
    what: str
    purpose: str
    kept: str


@click.group("privacy")
def command() -> None:
    """Say what is stored about whom and why; change the key.

    The key is that of the templates: docs/encryption.md.
    """


command.add_command(rekey)


@command.command("report")
@click.option("--subject", metavar="ID", help="One person's data, and nobody else's; with --json to be handed out.")
@click.option(
    "--templates",
    "with_templates",
    is_flag=True,
    help="With --subject and --json: the templates themselves, too. Treat them like photos: a likeness of the face can "
    "be computed from them.",
)
@json_option
@common_options
def report(*, subject: str | None, with_templates: bool, as_json: bool, config_path: Path | None, verbose: int) -> None:
    """Report what this kiosk holds about people.

    Without --subject: every kind of data with its purpose and how long it is kept, and everybody who is enrolled, with
    whether they are due to be erased: `kiosk subjects remove --due` does that. "unseen": on how many days the kiosk saw
    others and not this person, as far as the events it keeps can tell.

    With --subject: all that is stored about that person, also about one who is erased.
    """
    if with_templates and not (subject is not None and as_json):
        raise UsageError("privacy report: --templates goes with --subject and --json")
    config = load(config_path, verbose)
    wanted = None if subject is None else parse_subject_id(subject)
    with open_store(config) as store:
        if wanted is None:
            document = _overview(store, config)
        else:
            document = _person(store, config, wanted, with_templates=with_templates)
    if as_json:
        print_json(document)
    elif wanted is None:
        _print_overview(document)
    else:
        _print_person(document)


# --- everybody


def _overview(store: Store, config: Config) -> dict[str, Any]:
    deadlines = _Deadlines.read(store, config)
    presences = store.presences()
    subjects = [_outline(s, presences.get(s.id), deadlines) for s in store.subjects()]
    return {
        **_origin(config),
        "clock_synchronized": deadlines.trusted,
        "holdings": [asdict(holding) for holding in _holdings(store, config)],
        "subjects": subjects,
        "erased": [asdict(receipt) for receipt in store.receipts()],
    }


def _origin(config: Config) -> dict[str, Any]:
    return {
        "generated_at": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "site": config.device.site,
        "device": config.device.id,
    }


def _holdings(store: Store, config: Config) -> Iterator[_Holding]:
    counts, settings = store.row_counts(), config.store
    named = store.named_events()
    recognition = "to recognize people who are enrolled"
    yield _Holding("subjects", counts["subjects"], "id, name, consent", recognition, _kept_people(config))
    yield _Holding(
        "templates",
        counts["templates"],
        "numbers computed from photos, and the photos' quality and hash; no photo is kept",
        recognition,
        "as long as the subject",
    )
    yield _Holding(
        "codes",
        counts["codes"],
        "number and a hash of the PIN, a hash of the badge's id; wrong entries of the last half an hour by number",
        "to let people in by a code instead of the face",
        "as long as the subject, or until `kiosk subjects code ID --remove`",
    )
    yield _Holding(
        "attendance",
        counts["attendance"],
        "who came or went, when, at which door; scores and measures; who was entered or voided by hand, and why",
        "the attendance log, and to explain and correct it",
        f"{settings.retention_days} days, unsent ones until they are sent; under the bare id, without the reasons, of "
        "who is erased",
    )
    yield _Holding(
        "outbox",
        counts["outbox"],
        f"the events, {named or 'none'} of them with the name",
        _sending(config),
        "as long as the attendance",
    )
    yield _Holding(
        "rejections",
        counts["rejections"],
        "faces that led to no check-in: scores, measures, whom they resembled; nothing to know a stranger by",
        "to explain refusals (`kiosk why`)",
        f"{settings.rejected_days} days, the newest 10,000",
    )
    yield _Holding(
        "audit",
        counts["audit"],
        "what was changed when, by which system user; subjects under their ids",
        "to show who did what",
        "as long as the store",
    )
    yield _Holding(
        "erasures", counts["erasures"], "receipts: id, time, numbers", "to prove erasure", "as long as the store"
    )
    yield _Holding(
        "backups",
        len(store.backups.all()),
        "copies of all of this",
        "to restore a damaged store",
        f"the newest {settings.backups.keep}; an erasure replaces them all by a fresh one",
    )
    yield _Holding(
        "damaged_files",
        len(store.backups.damaged()),
        "stores that were damaged, as they were",
        "what may still be recovered from them",
        "the newest 2, until the next erasure",
    )


def _sending(config: Config) -> str:
    if not config.mqtt.enabled:
        return "nothing is sent (mqtt.enabled)"
    names = "with names" if config.mqtt.include_names else "without names"
    return f"to send them to the broker {config.mqtt.host}, {names} (mqtt.include_names)"


def _kept_people(config: Config) -> str:
    unseen = config.privacy.unseen_days
    rest = "" if unseen is None else f", or when they were not seen on {unseen} days"
    return f"until `kiosk subjects remove`; due for it when the consent ends{rest}"


@dataclass(frozen=True, slots=True)
class _Deadlines:
    """Who is due, and since when nobody has seen whom. ``trusted``: the clock was set; nobody is due otherwise."""

    trusted: bool
    due: Mapping[SubjectId, Due]
    history: History

    @classmethod
    def read(cls, store: Store, config: Config) -> Self:
        trusted = SystemClock().trusted_date(config.device.timezone)
        today = trusted or datetime.now(ZoneInfo(config.device.timezone)).date()
        due = [] if trusted is None else store.due(trusted, config.privacy.unseen_days)
        return cls(trusted is not None, {one.subject_id: one for one in due}, store.history(today))


def _outline(subject: Subject, presence: Presence | None, deadlines: _Deadlines) -> dict[str, Any]:
    due = deadlines.due.get(subject.id)
    return {
        "subject_id": subject.id,
        "name": subject.name,
        "created_at": subject.created_at,
        "templates": subject.templates,
        "events": 0 if presence is None else presence.events,
        "last_seen_at": None if presence is None else presence.last_at,
        "unseen_days": deadlines.history.unseen_days(subject.id),
        "consent": _consent(subject),
        "due": None if due is None else due_document(due),
    }


def _consent(subject: Subject) -> dict[str, Any] | None:
    if subject.consent_reference is None:
        return None
    return {
        "reference": subject.consent_reference,
        "given_at": subject.consent_at,
        "version": subject.consent_version,
        "until": subject.consent_until,
    }


def _print_overview(document: dict[str, Any]) -> None:
    for holding in document["holdings"]:
        click.echo(f"{holding['name']}: {holding['count']}")
        click.echo(f"  what  {holding['what']}")
        click.echo(f"  why   {holding['purpose']}")
        click.echo(f"  kept  {holding['kept']}")
    click.echo()
    click.echo(_LINE.format(*_HEAD))
    for subject in document["subjects"]:
        consent, seen = subject["consent"], subject["last_seen_at"] or "-"
        click.echo(
            _LINE.format(
                subject["subject_id"],
                subject["name"] or "",
                subject["templates"],
                subject["events"],
                seen[:10],
                f"{subject['unseen_days']} d",
                "none on record" if consent is None else f"until {consent['until'] or 'withdrawn'}",
                _due_words(subject["due"]),
            )
        )
    if not document["clock_synchronized"]:
        click.echo("nobody can be told to be due: the clock is not known to follow a time server")
    click.echo(f"receipts of earlier erasures: {len(document['erased'])} (--json lists them)")


def _due_words(due: Mapping[str, Any] | None) -> str:
    return "no" if due is None else due["reason"].replace("_", " ")


# --- one person


def _person(store: Store, config: Config, subject_id: str, *, with_templates: bool) -> dict[str, Any]:
    subject = store.subject(subject_id)
    events, changes = store.attendance(subject=subject_id), store.audit_rows(subject=subject_id)
    receipts = [receipt for receipt in store.receipts() if receipt.subject_id == subject_id]
    if subject is None and not (events or changes or receipts):
        raise InputError(f"{subject_id}: nothing is stored about anybody of this id; see `kiosk subjects list`")
    presence = store.presences().get(subject.id) if subject is not None else None
    outline = None if subject is None else _outline(subject, presence, _Deadlines.read(store, config))
    return {
        **_origin(config),
        "subject_id": subject_id,
        "enrolled": outline,
        "templates": [
            _template(info, store.embedding_bytes(info.id) if with_templates else None)
            for info in store.template_infos(subject_id)
        ],
        "codes": [_code(code) for code in store.codes() if code.subject_id == subject_id],
        "events": [_event(row) for row in events],
        "resembled": sum(subject_id in mentioned_subjects(row.evidence) for row in store.rejections()),
        "changes": [_change(row) for row in changes],
        "erased": [asdict(receipt) for receipt in receipts],
        "purposes": [_purpose(holding) for holding in _holdings(store, config)],
    }


def _purpose(holding: _Holding) -> dict[str, str]:
    """Without the number, which is everybody's."""
    return {"name": holding.name, "what": holding.what, "purpose": holding.purpose, "kept": holding.kept}


def _template(info: TemplateInfo, embedding: bytes | None) -> dict[str, Any]:
    document = {
        "model": info.model_id,
        "created_at": info.created_at,
        "quality": info.quality,
        "photo_sha256": info.source_sha256,
    }
    if embedding is not None:
        # Little-endian float32.
        document["embedding_base64"] = base64.b64encode(embedding).decode()
    return document


def _code(code: StoredCode) -> dict[str, Any]:
    """Without the hash, which is no use but to somebody who guesses."""
    return {"kind": code.kind, "number": code.number, "created_at": code.created_at, "failures": code.failures}


def _event(row: AttendanceRow) -> dict[str, Any]:
    return {
        "seq": row.seq,
        "event_id": row.event_id,
        "event_type": row.event_type,
        "occurred_at": row.occurred_at,
        "stated_at": row.stated_at,
        "tz": row.tz,
        "clock_synchronized": row.clock_synchronized,
        "site": row.site,
        "device": row.device,
        "delivery": row.delivery,
        "method": row.evidence.get("method", Method.FACE),
        "recorded_at": row.recorded_at,
        "voids": row.voids,
        "voided_by": row.voided_by,
        "reason": row.evidence.get("reason") if row.evidence.get("method") == MANUAL else None,
        **{name: row.evidence.get(name) for name in _MEASURES},
    }


def _change(row: AuditRow) -> dict[str, Any]:
    """Without who made it, for that is data of the one who did."""
    return {"seq": row.seq, "occurred_at": row.occurred_at, "action": row.action, "details": row.detail()}


def _print_person(document: dict[str, Any]) -> None:
    enrolled = document["enrolled"]
    if enrolled is None:
        click.echo(f"{document['subject_id']}: not enrolled (any more)")
    else:
        consent = enrolled["consent"] or {}
        click.echo(f"{document['subject_id']}: {enrolled['name'] or 'no name'}, enrolled at {enrolled['created_at']}")
        click.echo(
            f"consent: {consent.get('reference') or 'none on record'}, version {consent.get('version') or '-'}, "
            f"given {consent.get('given_at') or '-'}, until {consent.get('until') or '-'}"
        )
        click.echo(f"due to be erased: {_due_words(enrolled['due'])}")
    for template in document["templates"]:
        click.echo(f"template: {template['model']}, {template['created_at']}")
    for code in document["codes"]:
        click.echo(f"code: {code['kind']}, {code['created_at']}")
    click.echo(f"events: {len(document['events'])}")
    click.echo(f"decisions about others that name this person as alike: {document['resembled']}")
    for change in document["changes"]:
        click.echo(f"change: {change['occurred_at']} {change['action']}")
    for receipt in document["erased"]:
        click.echo(f"erased: {receipt['erased_at']}, receipt {receipt['receipt_id']}")
    click.echo("--json has all of it", err=True)
