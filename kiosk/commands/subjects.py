"""``kiosk subjects``: the people who are enrolled."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from kiosk.biometrics import ModelId, SubjectId, parse_subject_id
from kiosk.clock import SystemClock
from kiosk.codes import Kind, StoredCode
from kiosk.commands import gallery_audit, transfer
from kiosk.commands.names import read_name
from kiosk.commands.options import DATE, PATH, ask, common_options, count, json_option, load, print_json
from kiosk.commands.stores import open_store
from kiosk.config import Config
from kiosk.errors import InputError, ModelError, UsageError
from kiosk.store import Store, Subject


@click.group("subjects")
def command() -> None:
    """List, add, rename, audit, move, remove people; codes, consent."""


@command.command("list")
@json_option
@common_options
def list_subjects(*, as_json: bool, config_path: Path | None, verbose: int) -> None:
    """List everybody who is enrolled; say whom the model in use cannot recognize."""
    config = load(config_path, verbose)
    in_use = _model_in_use(config)
    with open_store(config) as store:
        if as_json:
            print_json({"model": in_use, "subjects": subject_documents(store, config, in_use)})
            return
        subjects, models = store.subjects(), store.subject_models()
        lapsed, codes = lapsed_subjects(store, config), _codes_by_subject(store)
    for subject in subjects:
        note = _describe_models(models.get(subject.id, {}), in_use)
        if subject.id in lapsed:
            note = f"\tNOT RECOGNIZED: consent ended on {subject.consent_until}"
        ways = "".join(f", {_describe_code(code)}" for code in codes[subject.id])
        click.echo(f"{subject.id}\t{subject.name or ''}\t{count(subject.templates, 'template')}{ways}{note}")
    if not subjects:
        click.echo("nobody is enrolled; `kiosk enroll ID PHOTO...` enrolls", err=True)


@command.command("show")
@click.argument("subject_id")
@json_option
@common_options
def show(*, subject_id: str, as_json: bool, config_path: Path | None, verbose: int) -> None:
    """Show one person: name, templates and last event."""
    config = load(config_path, verbose)
    in_use = _model_in_use(config)
    with open_store(config) as store:
        subject, lapsed = find_subject(store, subject_id), lapsed_subjects(store, config)
        document = full_document(store, subject, in_use, lapsed)
    if as_json:
        print_json(document)
        return
    for key, value in document.items():
        if not isinstance(value, list | dict):
            click.echo(f"{key}: {'-' if value is None else value}")
    templates = document["templates"]
    for template in templates if isinstance(templates, list) else []:
        note = " (of another model: not compared)" if template["compared"] is False else ""
        click.echo(f"template {template['id']}: {template['model']}, {template['created_at']}{note}")
    codes = document["codes"]
    for one in codes if isinstance(codes, list) else []:
        number = "" if one["number"] is None else f" with number {one['number']}"
        click.echo(f"code: {one['kind']}{number}, {one['created_at']}{' (OFF: too often wrong)' if one['off'] else ''}")
    if subject.id in lapsed:
        click.echo(
            f"NOT RECOGNIZED: the consent ended on {subject.consent_until}; `kiosk subjects consent` renews it",
            err=True,
        )
    elif document["recognized"] is False and document["models"]:
        click.echo(
            f"NOT RECOGNIZED by the model in use, {in_use}; `kiosk subjects reenroll DIR` enrolls again", err=True
        )


@command.command("add")
@click.argument("subject_id")
@click.option("--name", callback=read_name, help="Shown in lists; - reads it from standard input. Default: the id.")
@common_options
def add(*, subject_id: str, name: str | None, config_path: Path | None, verbose: int) -> None:
    """Add a person without a photo: for who is not to be recognized by the face.

    Nothing biometric is stored, so no consent to that is asked for. `kiosk subjects code` gives the person a code.
    """
    config = load(config_path, verbose)
    wanted = parse_subject_id(subject_id)
    with open_store(config, writable=True) as store:
        if store.subject(wanted) is not None:
            raise InputError(f"{wanted}: is there already; `kiosk subjects show {wanted}`")
        store.enroll(wanted, [], name=name or wanted)
    click.echo(f"{wanted} added without a face; `kiosk subjects code {wanted}` makes a code")


@command.command("code")
@click.argument("subject_id")
@click.option("--card", is_flag=True, help="Read the id of a card or badge from standard input, instead of a PIN.")
@click.option(
    "--qr", type=PATH, metavar="FILE", help="Write a QR code for a badge to this file (.svg or .png), instead of a PIN."
)
@click.option("--remove", "taken", is_flag=True, help="Take PIN and badge away.")
@json_option
@common_options
def code(
    *,
    subject_id: str,
    card: bool,
    qr: Path | None,
    taken: bool,
    as_json: bool,
    config_path: Path | None,
    verbose: int,
) -> None:
    """Give a person a PIN, or a badge: the second way in, which counts as much as the face.

    The PIN is printed once, with the number that is typed before it; only a hash is kept. A person may have one PIN
    and one badge; a new one takes the place of the old. Codes are entered where code.reader or code.camera is set; a
    running kiosk knows a new one at once.
    """
    from kiosk.commands import code as codes

    if card + taken + (qr is not None) > 1:
        raise UsageError("subjects code: only one of --card, --qr and --remove")
    config = load(config_path, verbose)
    with open_store(config) as reader:
        subject = find_subject(reader, subject_id)
    with open_store(config, writable=True) as store:
        if taken:
            codes.take_away(store, subject.id, as_json=as_json)
        elif card:
            codes.give_card(store, subject.id, as_json=as_json)
        elif qr is not None:
            codes.give_qr(store, subject.id, qr, as_json=as_json)
        else:
            codes.give_pin(store, subject.id, as_json=as_json)
    if not taken:
        codes.tell_where_to_enter(config.code, qr=qr is not None)


@command.command("rename")
@click.argument("subject_id")
@click.argument("name", callback=read_name)
@common_options
def rename(*, subject_id: str, name: str, config_path: Path | None, verbose: int) -> None:
    """Give a person another name; the id stays. NAME - reads it from standard input."""
    config = load(config_path, verbose)
    with open_store(config) as reader:
        find_subject(reader, subject_id)
    with open_store(config, writable=True) as store:
        store.rename_subject(subject_id, name)
    click.echo(f"{subject_id} is now {name}")


@command.command("consent")
@click.argument("subject_id")
@click.argument("reference")
@click.option("--date", "given", type=DATE, metavar="YYYY-MM-DD", help="When it was given. Default: today.")
@click.option("--version", "text_version", metavar="V", help="Which version of the text the person agreed to.")
@click.option("--until", type=DATE, metavar="YYYY-MM-DD", help="Last day it holds. Default: it does not end by itself.")
@common_options
def consent(
    *,
    subject_id: str,
    reference: str,
    given: datetime | None,
    text_version: str | None,
    until: datetime | None,
    config_path: Path | None,
    verbose: int,
) -> None:
    """Record a person's consent, or renew it, without new photos.

    REFERENCE says where it is filed (a document number, say). It replaces the one on record. Who withdraws consent is
    erased: `kiosk subjects remove`.
    """
    from kiosk.commands.enroll import read_consent, site_today

    config = load(config_path, verbose)
    agreement = read_consent(reference, given, text_version, until, site_today(config))
    with open_store(config) as reader:
        find_subject(reader, subject_id)
    if agreement is not None:
        with open_store(config, writable=True) as store:
            store.set_consent(subject_id, agreement)
    end = "it is withdrawn" if until is None else f"{until:%Y-%m-%d}"
    click.echo(f"{subject_id}: consent {reference} recorded, until {end}")


@command.command("reenroll")
@click.argument("folder", type=PATH, required=False, metavar="DIR")
@click.option(
    "--drop-old",
    is_flag=True,
    help="Once everybody has templates of the model in use, erase those of all other models. There is no way back.",
)
@click.option("--force", is_flag=True, help="Enroll again although photos of a person differ, or resemble another's.")
@json_option
@common_options
def reenroll(
    *, folder: Path | None, drop_old: bool, force: bool, as_json: bool, config_path: Path | None, verbose: int
) -> None:
    """Enroll people again after a change of model, from photos in DIR/<subject_id>/.

    Nobody is added; names and consent stay. Photos a person was enrolled from before are known by their bytes; others
    must agree with them. Templates of other models stay, for a way back, until --drop-old (which needs no DIR).
    """
    from kiosk.commands.reenroll import run_reenrollment

    if folder is None and not drop_old:
        raise UsageError("subjects reenroll: say where the photos are: DIR, with a folder in it for each subject id")
    run_reenrollment(load(config_path, verbose), folder, drop_old=drop_old, force=force, as_json=as_json)


@command.command("remove")
@click.argument("subject_id", required=False)
@click.option(
    "--due",
    is_flag=True,
    help="Erase everybody who is due: whose consent has ended, or who was not seen for privacy.unseen_days.",
)
@click.option(
    "--template",
    type=click.IntRange(1),
    metavar="N",
    help="Erase only this template of the person (`kiosk subjects show` and `audit` number them).",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@common_options
def remove(
    *,
    subject_id: str | None,
    due: bool,
    template: int | None,
    yes: bool,
    as_json: bool,
    config_path: Path | None,
    verbose: int,
) -> None:
    """Erase a person: name, templates and codes, also from the file's bytes.

    Attendance stays under the bare id. A running kiosk forgets the person within seconds. Prints a receipt, which the
    store keeps, too: `kiosk privacy report`.

    --due first shows who is due and why; nobody is while the clock is not known to follow a time server (exit code 69).
    """
    from kiosk.commands.erasure import remove_due, remove_template, tell_fault, tell_receipts

    if due == (subject_id is not None):
        raise UsageError("subjects remove: say whom: SUBJECT_ID, or --due for everybody who is due")
    if due and template is not None:
        raise UsageError("subjects remove: --template goes with SUBJECT_ID, not with --due")
    config = load(config_path, verbose)
    if subject_id is None:
        remove_due(config, yes=yes, as_json=as_json)
        return
    with open_store(config) as reader:
        subject = find_subject(reader, subject_id)
    if template is not None:
        remove_template(config, subject.id, template, yes=yes, as_json=as_json)
        return
    if not yes:
        _confirm(subject)
    with open_store(config, writable=True) as store:
        receipt, fault = store.remove_subject(subject_id), store.purge_fault
    if as_json:
        tell_fault(fault)
        print_json(asdict(receipt))
    else:
        tell_receipts(config, [receipt], fault)


for _subcommand in (gallery_audit.command, transfer.export_command, transfer.import_command):
    command.add_command(_subcommand)


def _confirm(subject: Subject) -> None:
    if not ask(f"Erase {subject.id} and {count(subject.templates, 'template')}? This cannot be undone."):
        raise InputError(f"{subject.id} was not removed (--yes removes without asking)")


def find_subject(store: Store, subject_id: str) -> Subject:
    """Raises InputError: nobody is enrolled under the id, or it is none."""
    subject = store.subject(parse_subject_id(subject_id))
    if subject is None:
        raise InputError(f"{subject_id}: nobody is enrolled under this id; see `kiosk subjects list`")
    return subject


def _model_in_use(config: Config) -> ModelId | None:
    """None, and a word about it, where the bundle cannot be had."""
    from kiosk.pipeline import model_id_of, open_bundle

    try:
        return model_id_of(config, open_bundle(config))
    except ModelError as error:
        click.echo(f"note: nobody can be recognized: {error}", err=True)
        return None


def _describe_models(models: Mapping[ModelId, int], in_use: ModelId | None) -> str:
    """What is worth a word: templates that the model in use does not compare."""
    foreign = [f"{number} of {model}" for model, number in models.items() if model != in_use]
    if in_use is None or not foreign:
        return ""
    if in_use not in models:
        return f"\tNOT RECOGNIZED: {', '.join(foreign)}"
    return f"\t{', '.join([f'{models[in_use]} of {in_use}', *foreign])}"


def lapsed_subjects(store: Store, config: Config) -> frozenset[SubjectId]:
    """Whose consent has ended, as far as the clock can be trusted."""
    today = SystemClock().trusted_date(config.device.timezone)
    return frozenset() if today is None else store.lapsed(today)


def _recognized(
    subject: Subject, models: Collection[ModelId], in_use: ModelId | None, lapsed: Collection[SubjectId]
) -> bool | None:
    return None if in_use is None else in_use in models and subject.id not in lapsed


def _codes_by_subject(store: Store) -> dict[str, list[StoredCode]]:
    found: dict[str, list[StoredCode]] = defaultdict(list)
    for code in store.codes():
        found[code.subject_id].append(code)
    return found


def _describe_code(code: StoredCode) -> str:
    if code.kind is Kind.BADGE:
        return "badge"
    return f"PIN with number {code.number}{' (OFF: too often wrong)' if code.spent else ''}"


def _code_document(code: StoredCode) -> dict[str, object]:
    return {"kind": code.kind, "number": code.number, "off": code.spent, "created_at": code.created_at}


def subject_documents(store: Store, config: Config, in_use: ModelId | None) -> list[dict[str, Any]]:
    """All subjects as JSON; ``in_use``: the model that recognizes."""
    models, lapsed, codes = store.subject_models(), lapsed_subjects(store, config), _codes_by_subject(store)
    return [
        _document(subject, models.get(subject.id, {}), in_use, lapsed, codes[subject.id])
        for subject in store.subjects()
    ]


def _document(
    subject: Subject,
    models: Mapping[ModelId, int],
    in_use: ModelId | None,
    lapsed: Collection[SubjectId],
    codes: Sequence[StoredCode],
) -> dict[str, object]:
    return {
        "subject_id": subject.id,
        "name": subject.name,
        "templates": subject.templates,
        "models": models,
        "recognized": _recognized(subject, models, in_use, lapsed),
        "codes": [_code_document(code) for code in codes],
        "created_at": subject.created_at,
    }


def full_document(
    store: Store, subject: Subject, in_use: ModelId | None, lapsed: Collection[SubjectId]
) -> dict[str, object]:
    """One subject with templates and codes, as JSON."""
    last = store.last_visit(subject.id)
    infos = store.template_infos(subject.id)
    models = Counter(info.model_id for info in infos)
    return {
        "subject_id": subject.id,
        "name": subject.name,
        "created_at": subject.created_at,
        "consent_reference": subject.consent_reference,
        "consent_at": subject.consent_at,
        "consent_version": subject.consent_version,
        "consent_until": subject.consent_until,
        "last_event": None if last is None else f"{last.event_type} at {last.occurred_at}",
        "models": dict(models),
        "recognized": _recognized(subject, models, in_use, lapsed),
        "codes": [_code_document(code) for code in _codes_by_subject(store)[subject.id]],
        "templates": [
            {
                "id": info.id,
                "model": info.model_id,
                "compared": None if in_use is None else info.model_id == in_use,
                "created_at": info.created_at,
                "quality": info.quality,
                "source_sha256": info.source_sha256,
            }
            for info in infos
        ],
    }
