"""The attendance log, the decisions without a check-in, and what each rests on."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime
from typing import Any, Literal
from zoneinfo import ZoneInfo

from starlette.requests import Request
from starlette.responses import Response

from kiosk.commands.by_hand import Correction
from kiosk.commands.corrections import add_entry, void_entry
from kiosk.commands.events import COLUMNS, check_in_document, rejection_document
from kiosk.commands.lookup import find_decision
from kiosk.commands.spreadsheets import write_csv
from kiosk.commands.stores import open_store
from kiosk.commands.times import parse_time
from kiosk.commands.why import decision_document
from kiosk.config import Config
from kiosk.enrollment import parse_subject_id
from kiosk.events import EventType
from kiosk.web.requests import Wish, beside, query, read_wish

_MAX_SHOWN = 500


class _Addition(Wish):
    """``at``: a time of the site, ISO 8601."""

    subject_id: str
    event_type: Literal["check_in", "check_out", "break_start", "break_end"]
    at: str
    reason: str


class _Void(Wish):
    reason: str


class AttendanceLog:
    def __init__(self, config: Config) -> None:
        self._config = config

    async def search(self, request: Request) -> object:
        """Check-ins from ``since`` to ``until`` (dates or times of the site), of ``subject``; the newest 500."""
        return await beside(self._search, *_filters(request))

    async def export_csv(self, request: Request) -> object:
        return await beside(self._export, *_filters(request), "csv")

    async def export_json(self, request: Request) -> object:
        return await beside(self._export, *_filters(request), "json")

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
        documents, names = self._documents(since, until, subject), self._names()
        shown = documents[-_MAX_SHOWN:]
        return {
            "events": [{**document, "name": names.get(document["subject_id"])} for document in reversed(shown)],
            "found": len(documents),
        }

    def _documents(self, since: str | None, until: str | None, subject: str | None) -> list[dict[str, Any]]:
        first, last = self._period(since, until)
        wanted = None if subject is None else parse_subject_id(subject)
        with open_store(self._config) as store:
            return [check_in_document(row) for row in store.attendance(since=first, until=last, subject=wanted)]

    def _export(
        self, since: str | None, until: str | None, subject: str | None, kind: Literal["csv", "json"]
    ) -> Response:
        documents = self._documents(since, until, subject)
        if kind == "json":
            text, media = json.dumps({"events": documents}, ensure_ascii=False, indent=2), "application/json"
        else:
            file = io.StringIO()
            write_csv(COLUMNS, documents, file=file)
            text, media = file.getvalue(), "text/csv"
        name = f"attendance-{self._config.device.id}-{since or 'start'}.{kind}".replace(":", "")
        return Response(text, media_type=media, headers={"Content-Disposition": f'attachment; filename="{name}"'})

    def _rejections(self, since: str | None, until: str | None) -> dict[str, Any]:
        first, last = self._period(since, until)
        with open_store(self._config) as store:
            documents = [rejection_document(row) for row in store.rejections(since=first, until=last)]
        return {"events": documents[-_MAX_SHOWN:][::-1], "found": len(documents)}

    def _explain(self, event_id: str) -> dict[str, Any]:
        with open_store(self._config) as store:
            row = find_decision(store, event_id)
            return decision_document(row, Correction.find(store, row))

    def _add(self, wish: _Addition) -> dict[str, Any]:
        return add_entry(self._config, wish.subject_id, EventType(wish.event_type), wish.at, wish.reason).payload()

    def _void(self, event: str, reason: str) -> dict[str, Any]:
        return void_entry(self._config, event, reason).payload()

    def _period(self, since: str | None, until: str | None) -> tuple[datetime | None, datetime | None]:
        zone, now = ZoneInfo(self._config.device.timezone), datetime.now(UTC)
        return (
            None if since is None else parse_time(since, zone, now),
            None if until is None else parse_time(until, zone, now, end_of_day=True),
        )

    def _names(self) -> dict[str, str | None]:
        with open_store(self._config) as store:
            return {str(subject.id): subject.name for subject in store.subjects()}


def _filters(request: Request) -> tuple[str | None, str | None, str | None]:
    return query(request, "since"), query(request, "until"), query(request, "subject")
