"""``kiosk subjects``: the people who are enrolled."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from kiosk.commands.options import common_options, json_option, load, print_json
from kiosk.commands.stores import open_store
from kiosk.enrollment import parse_subject_id
from kiosk.errors import InputError, UsageError
from kiosk.store import ErasureReceipt, Store, Subject


@click.group("subjects", no_args_is_help=False, invoke_without_command=True)
@click.pass_context
def command(ctx: click.Context) -> None:
    """List, show, rename or remove enrolled people."""
    if ctx.invoked_subcommand is None:
        raise UsageError("subjects: say what to do: list, show, rename or remove; see `kiosk subjects --help`")


@command.command("list")
@json_option
@common_options
def list_subjects(*, as_json: bool, config_path: Path | None, verbose: int) -> None:
    """List everybody who is enrolled."""
    config = load(config_path, verbose)
    with open_store(config) as store:
        subjects = store.subjects()
    if as_json:
        print_json({"subjects": [_document(subject) for subject in subjects]})
        return
    for subject in subjects:
        click.echo(f"{subject.id}\t{subject.name or ''}\t{_count(subject.templates, 'template')}")
    if not subjects:
        click.echo("nobody is enrolled; `kiosk enroll ID PHOTO...` enrolls", err=True)


@command.command("show")
@click.argument("subject_id")
@json_option
@common_options
def show(*, subject_id: str, as_json: bool, config_path: Path | None, verbose: int) -> None:
    """Show one person: name, templates and last event."""
    config = load(config_path, verbose)
    with open_store(config) as store:
        document = _full_document(store, _find(store, subject_id))
    if as_json:
        print_json(document)
        return
    for key, value in document.items():
        if not isinstance(value, list):
            click.echo(f"{key}: {'-' if value is None else value}")
    templates = document["templates"]
    for template in templates if isinstance(templates, list) else []:
        click.echo(f"template {template['id']}: {template['model']}, {template['created_at']}")


@command.command("rename")
@click.argument("subject_id")
@click.argument("name")
@common_options
def rename(*, subject_id: str, name: str, config_path: Path | None, verbose: int) -> None:
    """Give a person another name; the id stays."""
    config = load(config_path, verbose)
    with open_store(config) as reader:
        _find(reader, subject_id)
    with open_store(config, writable=True) as store:
        store.rename_subject(subject_id, name)
    click.echo(f"{subject_id} is now {name}")


@command.command("remove")
@click.argument("subject_id")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@common_options
def remove(*, subject_id: str, yes: bool, as_json: bool, config_path: Path | None, verbose: int) -> None:
    """Erase a person: name and templates, also from the file's bytes.

    Attendance stays under the bare id. A running kiosk forgets the person within seconds.
    """
    config = load(config_path, verbose)
    with open_store(config) as reader:
        subject = _find(reader, subject_id)
    if not yes:
        _confirm(subject)
    with open_store(config, writable=True) as store:
        receipt = store.remove_subject(subject_id)
    if as_json:
        print_json(asdict(receipt))
    else:
        click.echo(_describe(receipt))


def _confirm(subject: Subject) -> None:
    question = f"Erase {subject.id} and {_count(subject.templates, 'template')}? This cannot be undone."
    try:
        agreed = click.confirm(question, err=True)
    except click.Abort:
        agreed = False
        click.echo(err=True)
    if not agreed:
        raise InputError(f"{subject.id} was not removed (--yes removes without asking)")


def _describe(receipt: ErasureReceipt) -> str:
    rest = "" if receipt.complete else "; a reader keeps old pages open, they go with the next write"
    return (
        f"{receipt.subject_id} erased at {receipt.erased_at}: {_count(receipt.templates_erased, 'template')} erased, "
        f"{_count(receipt.attendance_kept, 'event')} kept without name; receipt {receipt.receipt_id}{rest}"
    )


def _find(store: Store, subject_id: str) -> Subject:
    subject = store.subject(parse_subject_id(subject_id))
    if subject is None:
        raise InputError(f"{subject_id}: nobody is enrolled under this id; see `kiosk subjects list`")
    return subject


def _document(subject: Subject) -> dict[str, object]:
    return {
        "subject_id": subject.id,
        "name": subject.name,
        "templates": subject.templates,
        "created_at": subject.created_at,
    }


def _full_document(store: Store, subject: Subject) -> dict[str, object]:
    last = store.last_attendance(subject.id)
    return {
        "subject_id": subject.id,
        "name": subject.name,
        "created_at": subject.created_at,
        "consent_reference": subject.consent_reference,
        "consent_at": subject.consent_at,
        "last_event": None if last is None else f"{last.event_type} at {last.occurred_at}",
        "templates": [
            {
                "id": template.id,
                "model": template.model_id,
                "created_at": template.created_at,
                "quality": template.quality,
                "source_sha256": template.source_sha256,
            }
            for template in store.template_infos(subject.id)
        ],
    }


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
