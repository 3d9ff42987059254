"""Which keys sealed templates that are erased: noted with the deletion, until the keys are gone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlite_utils import Database

from kiosk import integrity

ANY_KEY = "*"
"""Stands for all keys there are: nothing tells which of them sealed what is erased."""


def note_stale(db: Database, key_ids: Iterable[str]) -> None:
    """Remember that these keys sealed something that is erased. The caller holds the transaction."""
    known = stale(db)
    integrity.set_mark(db, integrity.STALE_KEYS, {"key_ids": sorted(known.union(key_ids))})


def name_stale(db: Database, key_ids: Iterable[str]) -> None:
    """Put these, of the key file, in the place of ``ANY_KEY``. The caller holds the transaction."""
    known = stale(db)
    if ANY_KEY in known:
        integrity.set_mark(db, integrity.STALE_KEYS, {"key_ids": sorted((known - {ANY_KEY}).union(key_ids))})


def delete_templates(db: Database, where: str, params: Sequence[object]) -> None:
    """Delete rows and note whose keys have to go. The caller holds the transaction."""
    key_ids = [row[0] for row in db.execute(f"SELECT DISTINCT key_id FROM templates WHERE {where}", params)]  # noqa: S608 - from the code
    if key_ids:
        note_stale(db, key_ids)
    db.execute(f"DELETE FROM templates WHERE {where}", params)  # noqa: S608


def stale(db: Database) -> set[str]:
    return set((integrity.mark(db, integrity.STALE_KEYS) or {"key_ids": ()})["key_ids"])
