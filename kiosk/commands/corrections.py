"""``kiosk events add`` and ``void``: the attendance log corrected by hand, by events of their own."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import click

from kiosk.biometrics import parse_subject_id
from kiosk.clock import SystemClock
from kiosk.commands.lookup import find_decision
from kiosk.commands.options import common_options, json_option, load, print_json
from kiosk.commands.stores import open_register, open_store
from kiosk.commands.times import local_time, parse_moment
from kiosk.config import Config
from kiosk.errors import InputError
from kiosk.events import EventType, ManualEntry, Moment, Origin, Void
from kiosk.store import AttendanceRow, Store

_REASON = "Why, in a few words. Kept with the event and erased with the person, never sent."


@click.command("add")
@click.argument("subject_id")
@click.option("--type", "event_type", type=click.Choice([kind.value for kind in EventType]), required=True)
@click.option(
    "--at",
    metavar="T",
    required=True,
    help="When it happened: 2026-03-02T08:00 (the site's time), 2026-03-02T08:00+09:00, or 2h ago.",
)
@click.option("--reason", metavar="TEXT", required=True, help=_REASON)
@json_option
@common_options
def add(
    *, subject_id: str, event_type: str, at: str, reason: str, as_json: bool, config_path: Path | None, verbose: int
) -> None:
    """Add an event that the kiosk did not record.

    It gets a number of its own, is written to the audit log, and is sent as a manual_entry, which opens no door.
    """
    config = load(config_path, verbose)
    entry = add_entry(config, subject_id, EventType(event_type), at, reason)
    if as_json:
        print_json({**entry.payload(), "reason": reason.strip()})
    else:
        zone = ZoneInfo(config.device.timezone)
        time = local_time(entry.adds.occurred_at, zone)
        click.echo(f"event {entry.seq}: {event_type} of {subject_id} at {time} {zone.key} added")


def add_entry(config: Config, subject_id: str, event_type: EventType, at: str, reason: str) -> ManualEntry:
    """Add an event that happened ``at`` (as :func:`parse_moment` takes it).

    Raises:
        UsageError, InputError, ConfigError, StoreError: it cannot be added.
    """
    wanted = parse_subject_id(subject_id)
    moment, zone = _now(), ZoneInfo(config.device.timezone)
    at_ms = round(parse_moment(at, zone, datetime.now(UTC), clock_is_set=moment.synchronized).timestamp() * 1000)
    _see_that_there_is_a_store(config)
    with open_register(config) as store:
        return store.add_event(
            wanted,
            event_type,
            at_ms,
            reason=reason,
            moment=moment,
            origin=_origin(config),
            retention_days=config.store.retention_days,
            include_name=config.mqtt.include_names,
            outbox=config.mqtt.enabled,
        )


@click.command("void")
@click.argument("event", metavar="SEQ|EVENT_ID")
@click.option("--reason", metavar="TEXT", required=True, help=_REASON)
@click.option("--subject", metavar="ID", help="Refuse if it is another person's event.")
@json_option
@common_options
def void(
    *, event: str, reason: str, subject: str | None, as_json: bool, config_path: Path | None, verbose: int
) -> None:
    """Have an event count no more; `kiosk events` goes on showing it, marked.

    SEQ is its number, EVENT_ID its id or the first 8 or more characters of that. The correction gets a number of its
    own, is written to the audit log, and is sent as a void. It cannot be voided itself: add the event anew.
    """
    config = load(config_path, verbose)
    entry = void_entry(config, event, reason, subject_id=subject)
    if as_json:
        print_json({**entry.payload(), "reason": reason.strip()})
    else:
        click.echo(f"event {entry.seq}: event {entry.voids.seq} is void")


def void_entry(config: Config, event: str, reason: str, *, subject_id: str | None = None) -> Void:
    """Have an event (its number, or its id or the beginning of that) count no more.

    Raises:
        InputError, ConfigError, StoreError: it cannot be voided.
    """
    wanted = None if subject_id is None else parse_subject_id(subject_id)
    with open_store(config) as reader:
        seq = _find(reader, event)
    with open_register(config) as store:
        return store.void_event(
            seq, reason=reason, moment=_now(), origin=_origin(config), subject_id=wanted, outbox=config.mqtt.enabled
        )


def _see_that_there_is_a_store(config: Config) -> None:
    """Opened for writing it would be made."""
    open_store(config).close()


def _find(store: Store, text: str) -> int:
    if text.isascii() and text.isdecimal() and len(text) <= 18:
        return int(text)
    row = find_decision(store, text)
    if not isinstance(row, AttendanceRow):
        raise InputError(f"event {row.event_id} is a decision without a check-in: there is nothing to void")
    return row.seq


def _origin(config: Config) -> Origin:
    return Origin(config.device.site, config.device.id, config.device.timezone)


def _now() -> Moment:
    clock = SystemClock()
    # Asked first, as the daemon does: a clock set in between must not vouch for what it showed before.
    synchronized = clock.synchronized()
    return Moment(clock.utc_ms(), synchronized, round(clock.boottime_s() * 1000), clock.boot_id())
