"""SQLite: subjects, templates, attendance, outbox. The only place with SQL besides the migrations."""

from kiosk.store._attendance import AttendanceRow
from kiosk.store._connection import RunningDaemon
from kiosk.store._outbox import OutboxCounts
from kiosk.store._store import Store
from kiosk.store._subjects import (
    Consent,
    ErasureReceipt,
    NewTemplate,
    Subject,
    TemplateInfo,
)

__all__ = [
    "AttendanceRow",
    "Consent",
    "ErasureReceipt",
    "NewTemplate",
    "OutboxCounts",
    "RunningDaemon",
    "Store",
    "Subject",
    "TemplateInfo",
]
