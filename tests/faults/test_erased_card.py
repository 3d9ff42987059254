"""Fifty people are erased, and somebody reads the whole card: the file system's image, block by block."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_store import MODEL, embedding, template

from faults.conftest import Record
from faults.disks import disk_with_a_plug
from kiosk.biometrics import SubjectId
from kiosk.store import KeyFile, Store
from kiosk.store._sealing import Key, Refused

pytestmark = pytest.mark.faults

PEOPLE = 200
ERASED = range(0, PEOPLE, 4)


def in_clear(number: int) -> list[bytes]:
    values = embedding(number)
    forms = (values, values.astype(np.float16), np.round(values * 127).astype(np.int8))
    return [form.tobytes()[:48] for form in forms]


def rows_of(path: Path) -> list[dict[str, Any]]:
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.row_factory = sqlite3.Row
        return [dict(row) for row in db.execute("SELECT * FROM templates ORDER BY id")]


def used_blocks(image: Path) -> bytes:
    """The card without its blocks of zeros, in order: a hundred times less to search."""
    content = image.read_bytes()
    blocks = (content[at : at + 4096] for at in range(0, len(content), 4096))
    return b"".join(block for block in blocks if block.count(0) < len(block))


def readable(key: Key, rows: list[dict[str, Any]], card: bytes) -> int:
    """How many of these templates the key reads from what the card still has of them."""
    found = 0
    for row in rows:
        # Whatever stands on the card behind the nonce is all that can be the rest of it.
        at = card.find(row["embedding"][:12])
        while at >= 0:
            with contextlib.suppress(Refused):
                key.unseal(card[at : at + len(row["embedding"])], row)
                found += 1
                break
            at = card.find(row["embedding"][:12], at + 1)
    return found


def test_who_was_erased_is_nowhere_on_the_card(tmp_path: Path, record: Record) -> None:
    with disk_with_a_plug(tmp_path / "card") as disk:
        disk.format()
        disk.mount()
        path = disk.root / "kiosk.db"
        with Store.open(path) as store:
            for number in range(PEOPLE):
                store.enroll(SubjectId(f"P{number}"), [template(number)])
            with store.backups.alone():
                store.backups.take()
            everybody = rows_of(path)
            old = KeyFile.of(path).read().current
            os.sync()
            image = disk.root.parent / "disk.img"
            before = used_blocks(image)
            # What is looked for can be found: by the key of then, all of them.
            assert old.secret.hex().encode() in before
            assert readable(old, everybody, before) == PEOPLE
            # One by one it takes four times as long: each would change the key.
            for number in ERASED:
                with store._writing() as db:
                    store._erase(db, SubjectId(f"P{number}"), reason="asked")
            assert store.finish_erasures()
            left = {one.subject_id for one in store.templates(MODEL)}
        assert left == {f"P{number}" for number in range(PEOPLE) if number not in ERASED}
        key = KeyFile.of(path).read().current
        disk.unmount()
        card = used_blocks(image)
        erased = [everybody[number] for number in ERASED]
        remnants = sum(row["embedding"][:12] in card for row in erased)
        recovered = readable(key, erased, card)
        with_the_old_key = readable(old, erased, card)
        record(
            "erased-card",
            erased=len(ERASED),
            sealed_remnants_on_the_card=remnants,
            recovered_with_the_key_there_is=recovered,
            recovered_had_the_old_key_survived=with_the_old_key,
        )
        assert recovered == 0
        assert not [n for n in range(PEOPLE) for part in in_clear(n) if part in before or part in card]
        for secret in (old.secret, old.secret.hex().encode()):
            assert secret not in card
