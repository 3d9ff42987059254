"""SQLite: subjects, templates, attendance, rejections, outbox. The only place with SQL besides the migrations."""

from kiosk.store._attendance import AttendanceRow, Outline, Visit
from kiosk.store._audit import AuditProblem, AuditRow, AuditVerdict
from kiosk.store._backups import Backup
from kiosk.store._chain import Action, chain_hash
from kiosk.store._connection import RunningDaemon
from kiosk.store._corrections import Corrections
from kiosk.store._due import Due, DueReason, History
from kiosk.store._keeper import BackupKeeper
from kiosk.store._keys import KeyFile, KeyRing
from kiosk.store._limits import Limits, StoreCondition
from kiosk.store._outbox import OutboxCounts, Unsent, UnsentEvent
from kiosk.store._rejections import MAX_REJECTIONS, RejectionRow
from kiosk.store._restore import Restored, describe_damage
from kiosk.store._store import Store
from kiosk.store._subjects import (
    Consent,
    ErasureReceipt,
    Presence,
    Subject,
    TemplateInfo,
    check_name,
)
from kiosk.store._templates import NewTemplate, RefusedTemplatesError, describe_refused

__all__ = [
    "MAX_REJECTIONS",
    "Action",
    "AttendanceRow",
    "AuditProblem",
    "AuditRow",
    "AuditVerdict",
    "Backup",
    "BackupKeeper",
    "Consent",
    "Corrections",
    "Due",
    "DueReason",
    "ErasureReceipt",
    "History",
    "KeyFile",
    "KeyRing",
    "Limits",
    "NewTemplate",
    "OutboxCounts",
    "Outline",
    "Presence",
    "RefusedTemplatesError",
    "RejectionRow",
    "Restored",
    "RunningDaemon",
    "Store",
    "StoreCondition",
    "Subject",
    "TemplateInfo",
    "Unsent",
    "UnsentEvent",
    "Visit",
    "chain_hash",
    "check_name",
    "describe_damage",
    "describe_refused",
]
