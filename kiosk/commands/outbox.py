"""``kiosk outbox``: what has not arrived at the broker, and another try for what was set aside."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from zoneinfo import ZoneInfo

import click

from kiosk.commands.options import WholeNumber, common_options, count, json_option, load, print_json
from kiosk.commands.stores import open_store
from kiosk.commands.times import local_time
from kiosk.errors import InputError
from kiosk.store import OutboxCounts, UnsentEvent

_LINE = "{:>7}  {:<19}  {:<15}  {:<20}  {:<7}  {:>5}  {}"
_HEAD = ("seq", "time", "event", "subject", "state", "tries", "last problem")


@click.group("outbox")
def command() -> None:
    """See what waits for the broker; retry what was set aside.

    An event is set aside (parked) when the connection broke three times with it at the head, or when it is larger than
    the broker takes. The daemon tries it again by itself, at growing intervals.
    """


@command.command("list")
@json_option
@common_options
def list_command(*, as_json: bool, config_path: Path | None, verbose: int) -> None:
    """List the events that have not arrived, oldest first."""
    config = load(config_path, verbose)
    with open_store(config) as store:
        events, counts = store.unsent_events(), store.outbox_counts()
    if as_json:
        print_json({"events": [asdict(event) for event in events], "counts": _counts(counts)})
        return
    if events:
        click.echo(_LINE.format(*_HEAD))
    zone = ZoneInfo(config.device.timezone)
    for event in events:
        click.echo(_line(event, zone))
    click.echo(f"{counts.pending} pending, {counts.parked} parked, {counts.sent} sent")


@command.command("retry")
@click.argument("seqs", metavar="[SEQ]...", nargs=-1, type=WholeNumber(min=1))
@json_option
@common_options
def retry_command(*, seqs: tuple[int, ...], as_json: bool, config_path: Path | None, verbose: int) -> None:
    """Put parked events back into the queue: all, or those with these numbers.

    A running daemon sends them within a second.
    """
    config = load(config_path, verbose)
    with open_store(config, writable=True) as store:
        parked = {event.seq for event in store.unsent_events() if event.state == "parked"}
        strangers = sorted(set(seqs) - parked)
        if strangers:
            raise InputError(f"event {strangers[0]} is not parked; `kiosk outbox list` shows what is")
        retried = store.retry_parked(seqs or None)
    if as_json:
        print_json({"retried": retried})
    else:
        click.echo(f"{count(len(retried), 'event')} back in the queue")


def _line(event: UnsentEvent, zone: ZoneInfo) -> str:
    time = local_time(event.created_at, zone)
    return _LINE.format(
        event.seq, time, event.event_type, event.subject_id, event.state, event.attempts, event.error or ""
    ).rstrip()


def _counts(counts: OutboxCounts) -> dict[str, int | None]:
    return {
        "pending": counts.pending,
        "parked": counts.parked,
        "sent": counts.sent,
        "kept_from_seq": counts.kept_from_seq,
        "last_seq": counts.last_seq,
    }
