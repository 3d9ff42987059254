"""``kiosk events``: the attendance log, and the decisions that led to no check-in."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal
from zoneinfo import ZoneInfo

import click

from kiosk.biometrics import parse_subject_id
from kiosk.commands.corrections import add, void
from kiosk.commands.options import common_options, load, print_json
from kiosk.commands.payroll import payroll
from kiosk.commands.signatures import export, keygen, verify
from kiosk.commands.spreadsheets import write_csv
from kiosk.commands.stores import open_store
from kiosk.commands.times import local_time, parse_period
from kiosk.errors import UsageError
from kiosk.events import Method, rejection_of
from kiosk.evidence import MANUAL
from kiosk.store import AttendanceRow, RejectionRow, Store

Format = Literal["table", "json", "csv"]

_MATCH_COLUMNS = ("score", "threshold", "margin", "frames", "model")
COLUMNS = (
    "seq", "event_id", "event_type", "subject_id", "occurred_at", "tz", "clock_synchronized",
    "site", "device", *_MATCH_COLUMNS, "delivery", "stated_at", "method",
    "recorded_at", "voids", "voided_by", "reason",
)  # fmt: skip
_REJECTED_COLUMNS = (
    "event_id", "event_type", "reason", "occurred_at", "tz", "clock_synchronized", "site", "device", *_MATCH_COLUMNS,
)  # fmt: skip
_FOLLOW_EVERY_S = 0.5
_FOLLOW_SHOWS = 10


@click.group("events", invoke_without_command=True)
@click.option("--since", metavar="T", help="From then on: 2026-03-02, 2026-03-02T08:00, or 24h, 7d ago.")
@click.option("--until", metavar="T", help="Before then; a date includes that day.")
@click.option("--subject", metavar="ID", help="Only this person's.")
@click.option("--format", "output", type=click.Choice(["table", "json", "csv"]), default="table", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
@click.option(
    "--follow",
    is_flag=True,
    help="Print the last ten (or those --since) and then events as they happen; JSON as one document a line.",
)
@click.option(
    "--rejected",
    is_flag=True,
    help="Instead: faces and codes that led to no check-in, with the ids `kiosk why` takes; kept store.rejected_days "
    "(7), the newest 10,000.",
)
@common_options
@click.pass_context
def command(
    ctx: click.Context,
    *,
    since: str | None,
    until: str | None,
    subject: str | None,
    output: Format,
    as_json: bool,
    follow: bool,
    rejected: bool,
    config_path: Path | None,
    verbose: int,
) -> None:
    """Show the attendance log, correct it, sum it up, sign it.

    The oldest event comes first. Times without a zone are meant, and the table shows them, in the site's time zone
    (device.timezone); JSON and CSV carry UTC. `kiosk why` explains one event, by its seq or event_id. What was added
    or voided by hand is marked, and stands where it was entered, at the time it is about.
    """
    if ctx.invoked_subcommand is not None:
        return
    if rejected and (follow or subject is not None):
        raise UsageError("--rejected goes with neither --follow nor --subject: leave one out")
    config = load(config_path, verbose)
    zone = ZoneInfo(config.device.timezone)
    now = datetime.now(UTC)
    first, last = parse_period(since, until, zone, now)
    wanted = None if subject is None else parse_subject_id(subject)
    with open_store(config) as store:
        kind = "json" if as_json else output
        if rejected:
            _Printer(_REJECTED, kind, zone).print(store.rejections(since=first, until=last))
            return
        printer = _Printer(_CHECK_INS, kind, zone, one_by_one=follow)
        # Looked up first: what happens between the two queries is then printed by one of them, never by none.
        newest_seq = _newest_seq(store)
        rows = store.attendance(since=first, until=last, subject=wanted)
        if follow and since is None:
            rows = rows[-_FOLLOW_SHOWS:]
        printer.print(rows)
        if wanted is not None and not rows and not _is_known(store, wanted):
            click.echo(f"note: nobody {wanted} is enrolled, and there is no event of theirs", err=True)
        if follow:
            seen_seq = max(newest_seq, rows[-1].seq if rows else 0)
            _follow(store, printer, seen_seq, until=last, subject=wanted)


for _subcommand in (add, void, payroll, export, keygen, verify):
    command.add_command(_subcommand)


Row = AttendanceRow | RejectionRow


@dataclass(frozen=True, slots=True)
class _Layout:
    """How one kind of row is printed: its fields as a document, and the table's ``line`` of ``head`` or cells."""

    columns: Sequence[str]
    document: Callable[[Any], dict[str, Any]]
    line: str
    head: Sequence[str]
    cells: Callable[[dict[str, Any], str], Sequence[object]]
    """From a document and its local time."""


class _Printer:
    """Writes rows in one of the formats; headers once. ``one_by_one``: rows come as they happen."""

    def __init__(self, layout: _Layout, output: Format, zone: ZoneInfo, *, one_by_one: bool = False) -> None:
        self._layout = layout
        self._output = output
        self._zone = zone
        self._one_by_one = one_by_one
        self._headed = False

    def print(self, rows: Iterable[Row]) -> None:
        documents = [self._layout.document(row) for row in rows]
        match self._output:
            case "json":
                self._print_json(documents)
            case "csv":
                self._print_csv(documents)
            case "table":
                self._print_table(documents)
        sys.stdout.flush()

    def _print_json(self, documents: list[dict[str, Any]]) -> None:
        if not self._one_by_one:
            print_json({"events": documents})
            return
        for document in documents:
            click.echo(json.dumps(document, ensure_ascii=False))

    def _print_csv(self, documents: list[dict[str, Any]]) -> None:
        write_csv(self._layout.columns, documents, header=not self._headed)
        self._headed = True

    def _print_table(self, documents: list[dict[str, Any]]) -> None:
        line = self._layout.line.format
        if not self._headed:
            click.echo(line(*self._layout.head))
            self._headed = True
        for document in documents:
            # A clock that nobody had set is marked: the order is right, the time may not be.
            doubt = "" if document["clock_synchronized"] else " ?"
            time = f"{local_time(document['occurred_at'], self._zone)}{doubt}"
            click.echo(line(*self._layout.cells(document, time)).rstrip())


def _is_known(store: Store, subject_id: str) -> bool:
    """Whether somebody of this id is enrolled, or has an event of whatever time."""
    return store.subject(subject_id) is not None or bool(store.attendance(subject=subject_id, limit=1))


def _newest_seq(store: Store) -> int:
    newest = store.attendance(newest_first=True, limit=1)
    return newest[0].seq if newest else 0


def _follow(store: Store, printer: _Printer, seen_seq: int, *, until: datetime | None, subject: str | None) -> None:
    """Print what comes after ``seen_seq``, until interrupted or ``until`` has passed."""
    while until is None or datetime.now(UTC) < until:
        time.sleep(_FOLLOW_EVERY_S)
        news = store.attendance(after_seq=seen_seq, subject=subject)
        if news:
            seen_seq = news[-1].seq
            printer.print(news)


def check_in_document(row: AttendanceRow) -> dict[str, Any]:
    """With the keys of ``COLUMNS``."""
    return {
        "seq": row.seq,
        "event_id": row.event_id,
        "event_type": row.event_type,
        "subject_id": row.subject_id,
        **_place_and_time(row),
        **_match_figures(row),
        "delivery": row.delivery,
        "stated_at": row.stated_at,
        "method": row.evidence.get("method", Method.FACE.value),
        "recorded_at": row.recorded_at,
        "voids": row.voids,
        "voided_by": row.voided_by,
        "reason": row.evidence.get("reason") if row.evidence.get("method") == MANUAL else None,
    }


def _check_in_cells(document: dict[str, Any], time: str) -> Sequence[object]:
    return (
        document["seq"],
        time,
        document["event_type"],
        document["subject_id"],
        document["method"] if document["score"] is None else _short(document["score"]),
        document["delivery"] or "not sent",
        _note(document),
    )


def _note(document: dict[str, Any]) -> str:
    """What was done by hand, and why."""
    notes = []
    if document["voids"] is not None:
        notes.append(f"voids {document['voids']}")
    elif document["recorded_at"] is not None:
        notes.append("added")
    if document["voided_by"] is not None:
        notes.append(f"VOID by {document['voided_by']}")
    return ", ".join(notes) + (f": {document['reason']}" if document["reason"] else "")


def rejection_document(row: RejectionRow) -> dict[str, Any]:
    """As JSON."""
    return {
        "event_id": row.event_id,
        "event_type": rejection_of(row.reason).value,
        "reason": row.reason,
        **_place_and_time(row),
        **_match_figures(row),
    }


def _rejection_cells(document: dict[str, Any], time: str) -> Sequence[object]:
    return document["event_id"], time, document["reason"], _short(document["score"])


def _place_and_time(row: Row) -> dict[str, Any]:
    return {
        "occurred_at": row.occurred_at,
        "tz": row.tz,
        "clock_synchronized": row.clock_synchronized,
        "site": row.site,
        "device": row.device,
    }


def _match_figures(row: Row) -> dict[str, Any]:
    match: dict[str, Any] = row.evidence.get("match") or {}
    return {key: match.get(key) for key in _MATCH_COLUMNS}


def _short(score: float | None) -> str:
    return "" if score is None else f"{score:.2f}"


_CHECK_INS = _Layout(
    COLUMNS,
    check_in_document,
    "{:>7}  {:<23}  {:<11}  {:<20}  {:>6}  {:<8}  {}",
    ("seq", "time", "event", "subject", "score", "delivery", "note"),
    _check_in_cells,
)
_REJECTED = _Layout(
    _REJECTED_COLUMNS,
    rejection_document,
    "{:<36}  {:<23}  {:<13}  {:>5}",
    ("event_id", "time", "reason", "score"),
    _rejection_cells,
)
