"""``kiosk audit``: what was done to the kiosk, and whether the log of it is whole."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import click

from kiosk.commands.options import common_options, count, json_option, load, print_json
from kiosk.commands.stores import open_store
from kiosk.commands.times import local_time, parse_period
from kiosk.errors import InputError, UsageError
from kiosk.store import AuditProblem, AuditRow, AuditVerdict

_LINE = "{:>5}  {:<21}  {:<24}  {:<7}  {:<17}  {:<20}  {}"
_HEAD = ("seq", "time", "who", "process", "action", "subject", "details")


@click.group("audit")
def command() -> None:
    """Show what was done to the kiosk and by whom; verify that log.

    Enrolled, renamed, erased; calibrations; models; settings that decide, as the daemon finds them at its start;
    restores. Check-ins are in `kiosk events`.
    """


@command.command("list")
@click.option("--since", metavar="T", help="From then on: 2026-03-02, 2026-03-02T08:00, or 24h, 7d ago.")
@click.option("--until", metavar="T", help="Before then; a date includes that day.")
@json_option
@common_options
def list_command(
    *, since: str | None, until: str | None, as_json: bool, config_path: Path | None, verbose: int
) -> None:
    """List what was done, oldest first.

    A ? after a time: the clock was not known to be right. JSON carries UTC, and all that the hashes cover.
    """
    config = load(config_path, verbose)
    zone, now = ZoneInfo(config.device.timezone), datetime.now(UTC)
    first, last = parse_period(since, until, zone, now)
    with open_store(config) as store:
        rows = store.audit_rows(since=first, until=last)
    if as_json:
        print_json({"rows": [_document(row) for row in rows]})
        return
    click.echo(_LINE.format(*_HEAD))
    for row in rows:
        click.echo(_line(row, zone))


@command.command("verify")
@click.option(
    "--head",
    metavar="SEQ:HASH[:STATE]",
    help="A head that an earlier run told and that was kept elsewhere: that row must still be there as it was. With a "
    "STATE, which is told where the log was not whole, what was wrong then is known: only what is new counts.",
)
@json_option
@common_options
def verify_command(*, head: str | None, as_json: bool, config_path: Path | None, verbose: int) -> None:
    """Follow the chain of hashes from the first row to the last; print the head.

    Exit code 0 only if no row was changed, taken out or cut off, and none lost in a restore; else 65. A restore that
    lost rows stays told for ever: look into it, note the head that is printed then, and give it to --head from then on.

    Whoever may write the store can also write a whole new log. That shows only to those who keep the head this prints
    somewhere else, and give it to --head.
    """
    config = load(config_path, verbose)
    noted, state = (None, "") if head is None else _parse_head(head)
    with open_store(config) as store:
        verdict = store.verify_audit(noted=noted, state=state)
    if as_json:
        print_json(_verdict_document(verdict))
    else:
        _print_verdict(verdict)
    if verdict.problems:
        raise InputError(
            f"the audit log is not whole: {count(len(verdict.problems), 'finding')} on stdout; once looked into, they "
            "are known to `kiosk audit verify --head` with the head told there"
        )


def _print_verdict(verdict: AuditVerdict) -> None:
    for problem in verdict.known:
        click.echo(f"known: {_describe(problem)}")
    for problem in verdict.problems:
        click.echo(_describe(problem))
    how = "not whole" if verdict.problems else "nothing new" if verdict.known else "whole"
    click.echo(f"{how}: {count(verdict.rows, 'row')}; head {_head_text(verdict)}")


def _parse_head(text: str) -> tuple[tuple[int, str], str]:
    """Number and hash; the state, empty without one."""
    seq, _, rest = text.partition(":")
    digest, _, state = rest.partition(":")
    if not (seq.isascii() and seq.isdigit() and len(seq) <= 15 and digest):
        raise UsageError(f"{text[:80]!a} is no head: give SEQ:HASH[:STATE] as `kiosk audit verify` told it")
    return (int(seq), digest), state


def _line(row: AuditRow, zone: ZoneInfo) -> str:
    time = f"{local_time(row.occurred_at, zone)}{'' if row.clock_synchronized else ' ?'}"
    details = ", ".join(f"{name}={_short(value)}" for name, value in row.detail().items())
    return _LINE.format(row.seq, time, row.who, row.process, row.action, row.subject_id or "", details).rstrip()


def _short(value: object) -> str:
    match value:
        case dict():
            return "{" + ", ".join(f"{name}: {_short(inner)}" for name, inner in value.items()) + "}"
        case list():
            return " -> ".join(_short(inner) for inner in value)
        case bool():
            return "yes" if value else "no"
        case None:
            return "-"
        case _:
            return str(value)


def _describe(problem: AuditProblem) -> str:
    rows = f"row {problem.first}" if problem.first == problem.last else f"rows {problem.first} to {problem.last}"
    return f"{rows} {problem.what}"


def _head_text(verdict: AuditVerdict) -> str:
    seq, digest = verdict.head[0], _plain(verdict.head[1])
    # What is whole is told by the last hash alone.
    return f"{seq}:{digest}:{verdict.state}" if verdict.problems or verdict.known else f"{seq}:{digest}"


def _plain(digest: str) -> str:
    """A hash, which in a damaged row may be any text."""
    return digest if digest.isascii() and digest.isalnum() else ("damaged" if digest else "")


def _document(row: AuditRow) -> dict[str, Any]:
    return {**asdict(row), "details": row.detail(), "details_text": row.details}


def _verdict_document(verdict: AuditVerdict) -> dict[str, Any]:
    return {
        "whole": not verdict.problems and not verdict.known,
        "rows": verdict.rows,
        "head": _head_text(verdict),
        "problems": [asdict(problem) for problem in verdict.problems],
        "known": [asdict(problem) for problem in verdict.known],
    }
