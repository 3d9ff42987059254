"""Erasing people: who is due, and the receipts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import date

import click

from kiosk.biometrics import SubjectId
from kiosk.clock import SystemClock
from kiosk.commands.options import ask, count, print_json
from kiosk.commands.stores import open_store
from kiosk.config import Config
from kiosk.errors import InputError, UnavailableError
from kiosk.store import Due, DueReason, ErasureReceipt, KeyFile


def remove_due(config: Config, *, yes: bool, as_json: bool) -> None:
    """Show who is due, ask, erase them one by one, and print the receipts.

    Raises:
        UnavailableError: the clock was not set, or there is no store.
        InputError: the answer is no.
    """
    with open_store(config) as reader:
        today = SystemClock().trusted_date(config.device.timezone)
        if today is None:
            raise UnavailableError(
                "the clock is not known to follow a time server, so that nobody can be told to be due; see "
                "`timedatectl`, or name whom to erase: `kiosk subjects remove ID`"
            )
        due, everybody = reader.due(today, config.privacy.unseen_days), len(reader.subjects())
    _show(due, today)
    if due and not yes and not ask(f"Erase {len(due)} of {count(everybody, 'subject')}? This cannot be undone."):
        raise InputError("nobody was removed (--yes removes without asking)")
    receipts, spared, fault = _erase(config, due) if due else ([], [], None)
    if as_json:
        tell_fault(fault)
        documents = [due_document(one) for one in due]
        print_json({"due": documents, "receipts": [asdict(receipt) for receipt in receipts], "spared": spared})
        return
    tell_receipts(config, receipts, fault)
    if not due:
        click.echo("nobody is due")


def remove_template(config: Config, subject_id: SubjectId, template_id: int, *, yes: bool, as_json: bool) -> None:
    """Ask, and erase one template; the person stays.

    Raises:
        InputError: there is no such template, or the answer is no.
    """
    if not yes and not ask(f"Erase template {template_id} of {subject_id}? This cannot be undone."):
        raise InputError(f"template {template_id} of {subject_id} was not removed (--yes removes without asking)")
    with open_store(config, writable=True) as store:
        left = store.drop_template(subject_id, template_id)
        complete = store.purge()
        fault = store.purge_fault
    tell_fault(fault)
    if as_json:
        print_json({"subject_id": subject_id, "template": template_id, "templates_left": left, "complete": complete})
        return
    click.echo(f"template {template_id} of {subject_id} erased; {count(left, 'template')} left")


def _show(due: Sequence[Due], today: date) -> None:
    """On stderr, like the question that follows."""
    if due:
        click.echo(f"due to be erased, today being {today}:", err=True)
    for one in due:
        name = "" if one.name in {None, one.subject_id} else f" ({one.name})"
        click.echo(f"  {one.subject_id}{name}: {describe_due(one)}; {count(one.templates, 'template')}", err=True)


def _erase(config: Config, due: Sequence[Due]) -> tuple[list[ErasureReceipt], list[str], str | None]:
    """The receipts, who was seen or agreed anew meanwhile, and what is in the way of completing it."""
    receipts, spared = [], []
    with open_store(config, writable=True) as store:
        for one in due:
            receipt = store.remove_due(one)
            if receipt is None:
                spared.append(str(one.subject_id))
                click.echo(f"note: {one.subject_id} is not due any more and stays", err=True)
            else:
                receipts.append(receipt)
        # Once, for all of them.
        complete = store.finish_erasures()
        fault = None if complete else store.purge_fault
    return [replace(receipt, complete=complete) for receipt in receipts], spared, fault


def describe_due(due: Due) -> str:
    """Why, in words."""
    if due.reason is DueReason.CONSENT_ENDED:
        return f"consent ended on {due.consent_until}"
    return f"not seen on {due.unseen_days} days"


def due_document(due: Due) -> dict[str, object]:
    """As JSON."""
    return {
        "subject_id": due.subject_id,
        "reason": due.reason.value,
        "consent_until": due.consent_until,
        "unseen_days": due.unseen_days,
        "templates": due.templates,
    }


def tell_receipts(config: Config, receipts: Sequence[ErasureReceipt], fault: str | None) -> None:
    """One line each; and that copies of the key file, if anybody keeps one, are of no use any more.

    ``fault``: what is in the way of completing the erasures.
    """
    for receipt in receipts:
        click.echo(describe_receipt(receipt, fault))
    if any(receipt.complete and receipt.templates_erased for receipt in receipts):
        path = KeyFile.configured(config.store).path
        click.echo(f"note: the key of the templates changes with this: copy {path} again if you keep a copy", err=True)


def tell_fault(fault: str | None) -> None:
    """On stderr, beside a JSON document that only says that it is not complete."""
    if fault is not None:
        click.echo(f"note: {_describe_remains(fault)}", err=True)


def describe_receipt(receipt: ErasureReceipt, fault: str | None) -> str:
    """In one line."""
    rest = "" if receipt.complete else f"; {_describe_remains(fault or 'something was in the way')}"
    return (
        f"{receipt.subject_id} erased at {receipt.erased_at}: {count(receipt.templates_erased, 'template')} erased, "
        f"{count(receipt.attendance_kept, 'event')} kept without name; receipt {receipt.receipt_id}{rest}"
    )


def _describe_remains(fault: str) -> str:
    return f"NOT YET gone from everywhere: {fault} (a running kiosk sees to the rest)"
