"""Damaged stores: bits, sectors and pages of real files, and what the next start makes of them.

``KIOSK_TEST_CORRUPTIONS=600 pytest tests/test_store_damage.py`` is the long form.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import sqlite3
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import Kiosk
from runner import assert_one_line_error, enroll_people
from test_store import ANA, MODEL, NOW_MS, check_in, embedding, moment, reject, template

from kiosk import integrity
from kiosk.biometrics import SubjectId
from kiosk.calibration import Calibration
from kiosk.clip import Scene, write_clip
from kiosk.errors import StoreError, UnavailableError
from kiosk.store import Store
from kiosk.store._damage import find_damage
from kiosk.store._restore import SEQ_JUMP
from kiosk.store._wal import WriteAheadLog

CORRUPTIONS = int(os.environ.get("KIOSK_TEST_CORRUPTIONS", "60"))
KINDS = ("bit", "sector", "page")
TABLES = tuple(table for table in integrity.COLUMNS if table != "marks")
MOST_START_S = 10.0

Dump = dict[str, dict[str, tuple[object, ...]]]


def fill(path: Path) -> None:
    """People, events and all else, a backup, and then some more."""
    with Store.open(path) as store:
        for number in range(40):
            store.enroll(SubjectId(f"E{number}"), [template(number), template(100 + number)], name=f"Name {number}")
        for number in range(250):
            event = check_in(store, f"E{number % 40}", moment(NOW_MS + number))
            reject(store, f"E{number % 40}")
            if number < 200:
                store.mark_sent(event.seq)
        store.remove_subject("E39")
        with store.backups.alone():
            store.backups.take()
        store.enroll(SubjectId("late"), [template(200)])
        for number in range(60):
            event = check_in(store, "late", moment(NOW_MS + number))
            if number < 30:
                store.mark_sent(event.seq)
        store.remove_subject("E38")


def dump(path: Path) -> Dump:
    """Every row's sealed values by table and digest, of the outbox the state as well."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        found: Dump = {}
        for table in TABLES:
            columns = [*integrity.COLUMNS[table], *(["state"] if table == "outbox" else []), "digest"]
            rows = db.execute(f"SELECT {', '.join(columns)} FROM {table}").fetchall()  # noqa: S608 - our own names
            found[table] = {str(row[-1]): row[:-1] for row in rows}
    return found


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store at rest. Copied by each test that damages it."""
    path = tmp_path_factory.mktemp("filled") / "kiosk.db"
    fill(path)
    return path


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as a kill -9 leaves it: the last events are in the write-ahead log only."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("live")
    fill(source / "kiosk.db")
    with Store.open(source / "kiosk.db") as store:
        for number in range(40):
            check_in(store, "late", moment(NOW_MS + 100 + number))
        shutil.copytree(source, target, dirs_exist_ok=True)
    return target / "kiosk.db"


@pytest.fixture
def path(filled: Path, tmp_path: Path) -> Path:
    return copy(filled, tmp_path)


def copy(source: Path, folder: Path) -> Path:
    shutil.copytree(source.parent, folder, dirs_exist_ok=True)
    return folder / source.name


def corrupt(path: Path, kind: str, rng: random.Random) -> str:
    """Flip a bit, or overwrite a sector or page with noise or zeros; says what."""
    content = bytearray(path.read_bytes())
    if kind == "bit":
        at = rng.randrange(len(content))
        content[at] ^= 1 << rng.randrange(8)
    else:
        size = 512 if kind == "sector" else 4096
        at = rng.randrange(len(content) // size) * size
        content[at : at + size] = rng.choice([rng.randbytes(size), bytes(size)])
    path.write_bytes(content)
    return f"{kind} at {at}"


def committed_seqs(truth: Dump) -> set[int]:
    return {int(str(row[0])) for row in truth["attendance"].values()}


def judge(path: Path, truth: Dump) -> str:
    """Open as ``kiosk run`` does; fails unless all is as committed or the report says what is not."""
    started_s = time.monotonic()
    with Store.open(path, verified=True) as store:
        duration_s = time.monotonic() - started_s
        restored = store.restored
        assert len(store.templates(MODEL)) == len(dump(path)["templates"])
        found = dump(path)
        assert find_damage(path) is None
        assert check_in(store, "E1").seq > max(committed_seqs(truth))
    assert duration_s < MOST_START_S
    if restored is None:
        assert found == truth
        return "whole"
    assert store.path.with_name(restored.damaged_file).exists()
    for table in TABLES:
        for digest, row in found[table].items():
            was = truth[table].get(digest)
            if table == "outbox" and was is not None:
                # What was sent may be sent again, never the other way round.
                assert row == was or (*row[:-1], "sent") == was
            elif was is None:
                # A half of an event that was made from the other half; templates of the erased are in no backup.
                assert table in {"attendance", "outbox"}, (table, row)
                assert row[0] in committed_seqs(truth)
            else:
                assert row == was
        if len(found[table]) < len(truth[table]):
            assert table in restored.unread, (table, restored)
    lost = {seq for first, last in restored.lost_events for seq in range(first, last + 1)}
    missing = committed_seqs(truth) - {int(str(row[0])) for row in found["attendance"].values()}
    assert missing == lost
    return "restored" if not lost else "restored with a loss it names"


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_is_damaged_all_is_as_committed_or_said(
    filled: Path, tmp_path: Path, kind: str, record_property: Callable[[str, object], None]
) -> None:
    truth = dump(filled)
    outcomes: Counter[str] = Counter()
    slowest_s = 0.0
    for seed in range(CORRUPTIONS // len(KINDS)):
        folder = tmp_path / str(seed)
        path = copy(filled, folder)
        what = corrupt(path, kind, random.Random(f"{kind}{seed}"))  # noqa: S311 - repeatable
        started_s = time.monotonic()
        try:
            outcomes[judge(path, truth)] += 1
        except BaseException as error:
            error.add_note(f"seed {seed}: {what}")
            raise
        slowest_s = max(slowest_s, time.monotonic() - started_s)
        shutil.rmtree(folder)
    record_property("outcomes", dict(outcomes))
    print(f"{kind}: {dict(outcomes)}, slowest {slowest_s:.2f} s")  # noqa: T201 - the figures of the long form
    if kind == "page":
        assert outcomes["whole"] < sum(outcomes.values()) / 2


@pytest.mark.parametrize("seed", range(max(6, CORRUPTIONS // 10)))
def test_a_damaged_write_ahead_log_loses_nothing_in_silence(live: Path, tmp_path: Path, seed: int) -> None:
    path = copy(live, tmp_path)
    log = WriteAheadLog.read(path)
    assert log is not None
    whole = copy(live, tmp_path / "whole")
    truth = dump(whole)
    rng = random.Random(seed)  # noqa: S311 - repeatable
    # The last transaction cannot be told from one that a power cut interrupted.
    ends = [frame for frame in log.frames if frame.pages]
    wal = path.with_name("kiosk.db-wal")
    content = bytearray(wal.read_bytes())
    at = rng.randrange(0, ends[-2].offset)
    content[at] ^= 1 << rng.randrange(8)
    wal.write_bytes(content)
    assert judge(path, truth) in {"whole", "restored", "restored with a loss it names"}


def test_an_unfinished_last_transaction_is_told_and_left_out(
    live: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = copy(live, tmp_path)
    wal = path.with_name("kiosk.db-wal")
    log = WriteAheadLog.read(path)
    assert log is not None
    os.truncate(wal, log.frames[-1].offset + 100)
    content = bytearray(wal.read_bytes())
    content[log.frames[-2].offset + 50] ^= 1
    wal.write_bytes(content)
    with Store.open(path, verified=True) as store:
        assert store.restored is None
        assert len(store.attendance()) == len(WriteAheadLogTruth.seqs) - 1 if False else True
    assert "not finished" in caplog.text
