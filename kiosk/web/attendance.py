"""The attendance log, the decisions without a check-in, and what each rests on."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import chain
from typing import Any, Literal, TypedDict
from zoneinfo import ZoneInfo

from starlette.requests import Request
from starlette.responses import Response

from kiosk.biometrics import parse_subject_id
from kiosk.commands.by_hand import Correction
from kiosk.commands.corrections import add_entry, void_entry
from kiosk.commands.events import COLUMNS, check_in_document, rejection_document
from kiosk.commands.lookup import find_decision
from kiosk.commands.spreadsheets import write_csv
from kiosk.commands.stores import open_store
from kiosk.commands.times import parse_period
from kiosk.commands.why import decision_document
from kiosk.config import Config
from kiosk.events import EventType
from kiosk.web.exports import send_file
from kiosk.web.requests import Wish, beside, query, read_wish

_MAX_SHOWN = 500
_PIECE = 500
"""Events that an export reads at a time."""


class _Addition(Wish):
    """``at``: a time of the site, ISO 8601."""

    subject_id: str
    event_type: Literal["check_in", "check_out", "break_start", "break_end"]
    at: str
    reason: str


class _Void(Wish):
    reason: str


class _Wanted(TypedDict):
    since: datetime | None
    until: datetime | None
    subject: str | None


class AttendanceLog:
    def __init__(self, config: Config) -> None:
        self._config = config

    async def search(self, request: Request) -> object:
        """Check-ins from ``since`` to ``until`` (dates or times of the site), of ``subject``; the newest 500."""
        return await beside(self._search, *_filters(request))

    async def export_csv(self, request: Request) -> object:
        return await self._export(request, "csv", self._csv, "text/csv")

    async def export_json(self, request: Request) -> object:
        return await self._export(request, "json", self._json, "application/json")

    async def add(self, request: Request) -> object:
        """Add what the kiosk did not record."""
        return await beside(self._add, await read_wish(request, _Addition))

    async def void(self, request: Request) -> object:
        """Have an event count no more."""
        wish = await read_wish(request, _Void)
        return await beside(self._void, request.path_params["event_id"], wish.reason)

    async def rejections(self, request: Request) -> object:
        """Decisions without a check-in; the newest 500."""
        return await beside(self._rejections, query(request, "since"), query(request, "until"))

    async def explain(self, request: Request) -> object:
        """What one decision rests on."""
        return await beside(self._explain, request.path_params["event_id"])

    def _search(self, since: str | None, until: str | None, subject: str | None) -> dict[str, Any]:
        wanted = self._wanted(since, until, subject)
        with open_store(self._config) as store:
            names = {subject.id: subject.name for subject in store.subjects()}
            shown = store.attendance(**wanted, limit=_MAX_SHOWN, newest_first=True)
            return {
                "events": [{**check_in_document(row), "name": names.get(row.subject_id)} for row in shown],
                "found": store.count_attendance(**wanted),
            }

    async def _export(
        self, request: Request, kind: str, write: Callable[[Iterator[list[dict[str, Any]]]], Iterator[str]], media: str
    ) -> Response:
        since, until, subject = _filters(request)
        wanted = self._wanted(since, until, subject)
        name = f"attendance-{self._config.device.id}-{since or 'start'}.{kind}"
        return await send_file(lambda: write(self._pieces(wanted)), name, media)

    def _pieces(self, wanted: _Wanted) -> Iterator[list[dict[str, Any]]]:
        """The wanted events in the order of ``seq``; the store is open only while a piece is read."""
        seen_seq = 0
        while True:
            with open_store(self._config) as store:
                rows = store.attendance(**wanted, after_seq=seen_seq, limit=_PIECE)
            if not rows:
                return
            seen_seq = rows[-1].seq
            yield [check_in_document(row) for row in rows]

    @staticmethod
    def _csv(pieces: Iterator[list[dict[str, Any]]]) -> Iterator[str]:
        for number, piece in enumerate(chain([[]], pieces)):
            file = io.StringIO()
            write_csv(COLUMNS, piece, header=number == 0, file=file)
            yield file.getvalue()

    @staticmethod
    def _json(pieces: Iterator[list[dict[str, Any]]]) -> Iterator[str]:
        before = '{"events": [\n'
        for piece in pieces:
            yield before + ",\n".join(json.dumps(document, ensure_ascii=False) for document in piece)
            before = ",\n"
        yield '{"events": []}\n' if before.startswith("{") else "\n]}\n"

    def _rejections(self, since: str | None, until: str | None) -> dict[str, Any]:
        first, last = self._period(since, until)
        with open_store(self._config) as store:
            shown = store.rejections(since=first, until=last, limit=_MAX_SHOWN, newest_first=True)
            found = store.count_rejections(since=first, until=last)
        return {"events": [rejection_document(row) for row in shown], "found": found}

    def _explain(self, event_id: str) -> dict[str, Any]:
        with open_store(self._config) as store:
            row = find_decision(store, event_id)
            return decision_document(row, Correction.find(store, row))

    def _add(self, wish: _Addition) -> dict[str, Any]:
        return add_entry(self._config, wish.subject_id, EventType(wish.event_type), wish.at, wish.reason).payload()

    def _void(self, event: str, reason: str) -> dict[str, Any]:
        return void_entry(self._config, event, reason).payload()

    def _period(self, since: str | None, until: str | None) -> tuple[datetime | None, datetime | None]:
        return parse_period(since, until, ZoneInfo(self._config.device.timezone), datetime.now(UTC))

    def _wanted(self, since: str | None, until: str | None, subject: str | None) -> _Wanted:
        first, last = self._period(since, until)
        return {"since": first, "until": last, "subject": None if subject is None else parse_subject_id(subject)}


def _filters(request: Request) -> tuple[str | None, str | None, str | None]:
    return query(request, "since"), query(request, "until"), query(request, "subject")
