"""Templates at rest: what a stolen file tells, what is refused, and that a key which is gone takes them along."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Kiosk
from sqlite_utils import Database
from test_store import ANA, MODEL, OLD, embedding, template

from kiosk import integrity, migrations
from kiosk.biometrics import SubjectId
from kiosk.errors import KeyFileError, KeyPermissionError, KioskError
from kiosk.store import KeyFile, Store
from kiosk.store._damage import find_damage
from kiosk.store._sealing import BOUND, Key, Refused

pytestmark = pytest.mark.stories

PEOPLE = 6


@pytest.fixture
def filled(path: Path) -> Path:
    with Store.open(path) as store:
        enroll(store, range(PEOPLE))
    return path


@pytest.fixture
def master(tmp_path: Path) -> Path:
    file = tmp_path / "elsewhere" / "master"
    file.parent.mkdir()
    file.write_text("a" * 44 + "\n")
    return file


def enroll(store: Store, numbers: range) -> None:
    for number in numbers:
        store.enroll(SubjectId(f"P{number}"), [template(number)])


def everything(folder: Path, *, but: str = "elsewhere") -> bytes:
    return b"".join(f.read_bytes() for f in folder.rglob("*") if f.is_file() and but not in f.parts)


def in_clear(seed: int) -> list[bytes]:
    """What of an embedding would be found, however it is stored; a part, for a page may end within it."""
    values = embedding(seed)
    whole = (values, values.astype(np.float16), np.round(values * 127).astype(np.int8))
    return [part.tobytes()[at : at + 24] for part in whole for at in (0, 64)]


def sealed(path: Path) -> list[dict[str, object]]:
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.row_factory = sqlite3.Row
        return [dict(row) for row in db.execute("SELECT * FROM templates ORDER BY id")]


def change(path: Path, sql: str, *params: object) -> None:
    """As somebody does who can write the file and computes the digests, too."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        db = Database(connection, execute_plugins=False)
        integrity.install(db)
        db.execute(sql, params)
        integrity.seal(db, "templates")


def who(store: Store) -> list[str]:
    return sorted(one.subject_id for one in store.templates(MODEL))


# --- what a stolen file tells


def test_no_template_lies_in_the_clear_and_all_are_read_back(filled: Path) -> None:
    with Store.open(filled) as store, store.backups.alone():
        store.backups.take()
        for number, one in enumerate(store.templates(MODEL)):
            assert np.array_equal(one.embedding, embedding(number))
            assert store.embedding_bytes(number + 1) == embedding(number).astype("<f4").tobytes()
        stolen = everything(filled.parent)
    assert not [part for number in range(PEOPLE) for part in in_clear(number) if part in stolen]
    key = filled.with_name("kiosk.db.key")
    assert key.stat().st_mode & 0o777 == 0o600
    ring = KeyFile.of(filled).read()
    assert ring.settled
    without_key = b"".join(f.read_bytes() for f in filled.parent.rglob("kiosk*") if f.is_file() and f != key)
    assert ring.current.secret not in without_key
    assert ring.current.secret.hex().encode() not in without_key


def test_a_row_is_sealed_to_what_stands_in_it() -> None:
    row: dict[str, object] = dict.fromkeys(BOUND, "x") | {"id": 7, "quality": None}
    key = Key.fresh()
    blob = key.seal(b"embedding", row)
    assert key.unseal(blob, dict(row)) == b"embedding"
    for name in BOUND:
        for other in ("y", None, "-", ""):
            if row[name] != other:
                with pytest.raises(Refused):
                    key.unseal(blob, row | {name: other})
    # One text for one row: what moves from one value to the next is not the same.
    with pytest.raises(Refused):
        key.unseal(
            key.seal(b"e", row | {"subject_id": "a", "model_id": "bc"}), row | {"subject_id": "ab", "model_id": "c"}
        )
    for wrong in (b"", blob[:11], blob[:-1], blob[:-1] + bytes([blob[-1] ^ 1])):
        with pytest.raises(Refused):
            key.unseal(wrong, row)
    with pytest.raises(Refused):
        Key.fresh().unseal(blob, row)
    assert key.secret.hex() not in repr(key)
    assert str(key.secret) not in repr(key)


_SWAP = "UPDATE templates SET subject_id = CASE id WHEN 1 THEN 'P1' ELSE 'P0' END WHERE id IN (1, 2)"


@pytest.mark.parametrize(
    ("sql", "refused"),
    [
        (_SWAP, ["P0", "P1"]),
        ("UPDATE templates SET subject_id = 'P5' WHERE id = 1", ["P5"]),
        ("UPDATE templates SET embedding = zeroblob(length(embedding)) WHERE id = 2", ["P1"]),
        ("UPDATE templates SET embedding = x'00' WHERE id = 2", ["P1"]),
        ("UPDATE templates SET model_id = (SELECT model_id FROM templates LIMIT 1)", ["P0"]),
        ("UPDATE templates SET id = 99 WHERE id = 1", ["P0"]),
        ("UPDATE templates SET key_id = 'feedfeedfeedfeed' WHERE id = 1", ["P0"]),
    ],
    ids=["swapped", "another subject", "altered", "cut", "another model", "another number", "another key"],
)
def test_what_was_swapped_or_altered_is_refused_and_told_once(
    filled: Path, caplog: pytest.LogCaptureFixture, sql: str, refused: list[str]
) -> None:
    with Store.open(filled) as store:
        store.enroll(SubjectId("P0"), [template(50, OLD)])
    change(filled, sql)
    assert find_damage(filled) is None
    with Store.open(filled, verified=True) as store:
        all_rows = len(sealed(filled))
        for _ in range(2):
            assert len(store.templates(MODEL)) + len(refused) >= all_rows - 1
            sound = {one.embedding.tobytes() for one in store.templates(MODEL)}
            assert sound <= {embedding(number).tobytes() for number in range(PEOPLE)}
        assert sorted(store.refused_templates()) == refused
    assert caplog.text.count("cannot be decrypted and are not compared") == 1


# --- erasure


def test_an_erasure_takes_the_key_along(filled: Path) -> None:
    before, old = sealed(filled), KeyFile.of(filled).read().current
    with Store.open(filled) as store:
        with store.backups.alone():
            store.backups.take()
        assert store.remove_subject("P2").complete
        assert store.finish_erasures()
        assert who(store) == ["P0", "P1", "P3", "P4", "P5"]
        now = KeyFile.of(filled).read()
        assert [key.id for key in now.keys] != [old.id]
        assert len(now.keys) == 1
        rest = everything(filled.parent)
    assert old.secret.hex().encode() not in rest
    assert not [row["id"] for row in before if bytes(row["embedding"]) in rest]  # type: ignore[arg-type]
    with pytest.raises(Refused):
        now.current.unseal(bytes(before[2]["embedding"]), before[2])  # type: ignore[arg-type]
    (backup,) = filled.parent.glob("backups/*.db")
    assert {row["key_id"] for row in sealed(backup)} == {now.current.id}


def test_a_store_that_is_open_follows_a_change_of_the_key(filled: Path) -> None:
    with Store.open(filled) as daemon, Store.open(filled) as command:
        assert len(who(daemon)) == PEOPLE
        assert command.remove_subject("P0").complete
        assert daemon.changed()
        assert who(daemon) == ["P1", "P2", "P3", "P4", "P5"]
        daemon.enroll(ANA, [template(70)])
        assert ANA in who(command)


def test_a_reader_in_the_way_keeps_the_old_key_until_it_is_gone(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kiosk.store._connection._BUSY_TIMEOUT_S", 0.1)
    with Store.open(filled) as store:
        with contextlib.closing(sqlite3.connect(filled, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT * FROM subjects").fetchall()
            assert not store.remove_subject("P0").complete
            for _ in range(3):
                assert not store.finish_erasures()
            assert len(KeyFile.of(filled).read().keys) == 2
            assert len(who(store)) == PEOPLE - 1
        assert store.finish_erasures()
        assert len(KeyFile.of(filled).read().keys) == 1
        assert store.receipts()[0].complete


_KILLED = """
import os, shutil, signal, sqlite3, sys, traceback
from pathlib import Path
from kiosk.store import Store

source, work, victim = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
steps = 0

def armed(module, name, last):
    real = getattr(module, name)
    def call(*args, **kwargs):
        global steps
        steps += 1
        if steps == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)
    setattr(module, name, call)

for last in range(1, 1000):
    folder = work / str(last)
    shutil.copytree(source, folder)
    child = os.fork()
    if not child:
        try:
            for name in ("fsync", "pwrite", "unlink", "replace", "rename", "open"):
                armed(os, name, last)
            armed(Store, "checkpoint", last)
            armed(sys.modules["kiosk.integrity"], "seal", last)
            armed(sys.modules["kiosk.integrity"], "set_mark", last)
            with Store.open(folder / "kiosk.db") as store:
                if victim:
                    store.remove_subject(victim)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    status = os.waitpid(child, 0)[1]
    if os.WIFEXITED(status):
        sys.exit(os.WEXITSTATUS(status))
sys.exit("no end")
"""


def killed_at_every_step(source: Path, work: Path, victim: str) -> Iterator[Path]:
    command = [sys.executable, "-W", "ignore", "-c", _KILLED, str(source), str(work), victim]
    result = subprocess.run(command, check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    folders = sorted(work.iterdir(), key=lambda folder: int(folder.name))
    assert len(folders) > 15
    for folder in folders:
        yield folder / "kiosk.db"


def test_killed_at_any_step_of_an_erasure_nobody_is_lost_and_it_is_finished(filled: Path, tmp_path: Path) -> None:
    with Store.open(filled) as store, store.backups.alone():
        store.backups.take()
    old = KeyFile.of(filled).read().current.secret.hex().encode()
    source = tmp_path / "source"
    source.mkdir()
    shutil.copytree(filled.parent / "backups", source / "backups")
    for file in filled.parent.glob("kiosk.db*"):
        shutil.copy2(file, source)
    for path in killed_at_every_step(source, tmp_path / "work", "P2"):
        with Store.open(path, verified=True) as store:
            assert store.restored is None
            left = who(store)
            assert left in (["P0", "P1", "P3", "P4", "P5"], ["P0", "P1", "P2", "P3", "P4", "P5"])
            assert store.finish_erasures()
            assert who(store) == left
            erased = len(left) < PEOPLE
        assert (old in everything(path.parent)) != erased
        assert len(KeyFile.of(path).read().keys) == 1


# --- the upgrade


def in_clear_store(folder: Path) -> Path:
    """A store of the last version that did not encrypt, with a backup of its own and an open log."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "kiosk.db"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        db = Database(connection, execute_plugins=False)
        db.execute("PRAGMA journal_mode = WAL")
        steps = migrations.STEPS[: migrations.ENCRYPTED_SINCE - 1]
        migrations.migrate(db, path, steps)
        for number in range(PEOPLE):
            db.execute("INSERT INTO subjects (id, created_at) VALUES (?, 'then')", [f"P{number}"])
            db.execute(
                "INSERT INTO templates (subject_id, model_id, embedding, created_at) VALUES (?, ?, ?, 'then')",
                [f"P{number}", MODEL, embedding(number).astype("<f4").tobytes()],
            )
        for table in ("subjects", "templates"):
            integrity.seal(db, table, columns=integrity.present(db, table))
        (folder / "backups").mkdir()
        with contextlib.closing(sqlite3.connect(folder / "backups" / "kiosk-000001-20260101T000000Z.db")) as backup:
            connection.backup(backup)
    assert in_clear(0)[0] in everything(folder)
    return path


@pytest.mark.parametrize("verified", [True, False], ids=["the daemon", "a command"])
def test_an_upgrade_leaves_nothing_in_the_clear(tmp_path: Path, *, verified: bool) -> None:
    path = in_clear_store(tmp_path / "door")
    with Store.open(path, verified=verified) as store:
        assert store.restored is None
        assert who(store) == [f"P{number}" for number in range(PEOPLE)]
        rest = everything(path.parent)
        assert not [number for number in range(PEOPLE) for part in in_clear(number) if part in rest]
        assert len(store.backups.all()) == 1
    assert find_damage(path) is None
    assert not KeyFile.of(path).read().adopting


def test_killed_at_any_step_of_the_upgrade_everybody_is_kept(tmp_path: Path) -> None:
    source = in_clear_store(tmp_path / "source")
    for path in killed_at_every_step(source.parent, tmp_path / "work", ""):
        with Store.open(path, verified=True) as store:
            assert store.restored is None
            assert len(who(store)) == PEOPLE
            assert store.finish_erasures()
            rest = everything(path.parent)
            assert not [number for number in range(PEOPLE) for part in in_clear(number) if part in rest]


def test_templates_in_the_clear_are_not_taken_a_second_time(tmp_path: Path) -> None:
    path = in_clear_store(tmp_path / "door")
    shutil.copy2(path, tmp_path / "before.db")
    Store.open(path).close()
    shutil.copy2(tmp_path / "before.db", path)
    with pytest.raises(KeyFileError, match=r"not encrypted, beside the key.*move .*kiosk\.db\.key away"):
        Store.open(path)
    path.with_name("kiosk.db.key").unlink()
    with Store.open(path) as store:
        assert len(who(store)) == PEOPLE


def test_a_damaged_store_of_before_is_restored_encrypted(tmp_path: Path) -> None:
    path = in_clear_store(tmp_path / "door")
    content = path.read_bytes()
    path.write_bytes(bytes(1024) + content[1024:])
    with Store.open(path, verified=True) as store:
        assert store.restored is not None
        assert store.restored.unread == ()
        assert who(store) == [f"P{number}" for number in range(PEOPLE)]
        assert store.finish_erasures()
    rest = everything(path.parent)
    assert not [number for number in range(PEOPLE) for part in in_clear(number) if part in rest]


# --- the key file


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (Path.unlink, "is missing; put your copy of it there"),
        (lambda file: file.write_bytes(b""), "is damaged; put your copy"),
        (lambda file: file.write_bytes(os.urandom(8192)), "is damaged; put your copy"),
    ],
    ids=["gone", "empty", "noise"],
)
def test_without_the_key_nothing_is_begun_anew_and_the_past_goes_on(filled: Path, spoil: object, message: str) -> None:
    key = filled.with_name("kiosk.db.key")
    kept = key.read_bytes()
    spoil(key)  # type: ignore[operator]
    spoiled = key.read_bytes() if key.exists() else None
    with Store.open(filled, verified=True) as store:
        for act in (lambda: store.templates(MODEL), lambda: store.enroll(ANA, [template()]), store.key_ring):
            with pytest.raises(KeyFileError, match=message) as caught:
                act()
            assert "\n" not in str(caught.value)
            assert caught.value.exit_code == 78
        assert (key.read_bytes() if key.exists() else None) == spoiled
        assert store.unsent().pending == 0
        assert len(store.subjects()) == PEOPLE
        key.write_bytes(kept)
        assert len(who(store)) == PEOPLE


def test_everybody_removed_a_lost_key_is_replaced(filled: Path) -> None:
    filled.with_name("kiosk.db.key").unlink()
    with Store.open(filled) as store:
        *first, last = store.subjects()
        assert not any(store.remove_subject(subject.id).complete for subject in first)
        assert store.remove_subject(last.id).complete
        assert all(receipt.complete for receipt in store.receipts())
        store.enroll(ANA, [template()])
        assert who(store) == [ANA]


def test_while_the_key_is_missing_no_erasure_is_complete_and_then_it_is(filled: Path) -> None:
    key = filled.with_name("kiosk.db.key")
    kept, old = key.read_bytes(), KeyFile.of(filled).read().current
    key.unlink()
    with Store.open(filled) as store:
        assert not store.remove_subject("P0").complete
        assert not store.finish_erasures()
        key.write_bytes(kept)
        assert store.finish_erasures()
        assert store.receipts()[0].complete
        assert KeyFile.of(filled).read().find(old.id) is None
        assert len(who(store)) == PEOPLE - 1


def test_nothing_is_sealed_with_an_outdated_copy_of_the_key(filled: Path) -> None:
    key = filled.with_name("kiosk.db.key")
    copy = key.read_bytes()
    with Store.open(filled) as store:
        assert store.remove_subject("P0").complete
        current = key.read_bytes()
        key.write_bytes(copy)
        with pytest.raises(KeyFileError, match="opens none of the templates") as caught:
            store.enroll(ANA, [template()])
        assert caught.value.exit_code == 78
        assert store.subject(ANA) is None
        key.write_bytes(current)
        store.enroll(ANA, [template()])
        assert ANA in who(store)


def test_whatever_interrupts_the_sealing_of_a_bare_key_that_key_goes(filled: Path, master: Path) -> None:
    bare, keys = KeyFile.of(filled).read().current, KeyFile.of(filled, master_file=master)
    with Store.open(filled, keys=KeyFile.of(filled)) as store:
        store.keys = keys
        # As if the process had been killed between the note and the new key.
        assert store._give_up_bare_key()
    assert not KeyFile.of(filled).read().wrapped
    with Store.open(filled, keys=keys) as store:
        assert keys.read().wrapped
        assert keys.read().find(bare.id) is None
        assert len(who(store)) == PEOPLE


@pytest.mark.parametrize("copy", [0, 1])
def test_one_torn_copy_of_the_key_does_no_harm(filled: Path, copy: int) -> None:
    key = filled.with_name("kiosk.db.key")
    content = bytearray(key.read_bytes())
    content[copy * 4096 + 100 : copy * 4096 + 600] = bytes(500)
    key.write_bytes(content)
    assert not KeyFile.of(filled).read().settled
    with Store.open(filled) as store:
        assert len(who(store)) == PEOPLE
        assert store.remove_subject("P0").complete
    assert KeyFile.of(filled).read().settled


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_key_that_may_not_be_read_is_told_with_77(filled: Path) -> None:
    filled.with_name("kiosk.db.key").chmod(0)
    with Store.open(filled) as store, pytest.raises(KeyPermissionError, match="may not be read by this user") as caught:
        store.templates(MODEL)
    assert caught.value.exit_code == 77


def test_the_key_is_sealed_with_a_master_key_as_soon_as_there_is_one(filled: Path, master: Path) -> None:
    lain_open = KeyFile.of(filled).read().current
    keys = KeyFile.of(filled, master_file=master)
    with Store.open(filled, keys=keys, verified=True) as store:
        assert len(who(store)) == PEOPLE
        assert keys.read().wrapped
        assert keys.read().current != lain_open
    rest = everything(filled.parent)
    assert lain_open.secret.hex().encode() not in rest
    assert keys.read().current.secret.hex().encode() not in rest
    with Store.open(filled) as store:
        with pytest.raises(KeyFileError, match="is sealed, and this process has nothing to open it with"):
            store.templates(MODEL)
        # Erased all the same; whoever has the key finishes it.
        assert not store.remove_subject("P0").complete
    master.write_text("b" * 44)
    with (
        Store.open(filled, keys=keys) as store,
        pytest.raises(KeyFileError, match="is not what the key file was sealed"),
    ):
        store.templates(MODEL)
    master.write_text("a" * 44)
    with Store.open(filled, keys=keys) as store:
        assert store.finish_erasures()
        assert len(who(store)) == PEOPLE - 1
        assert store.receipts()[0].complete


def test_a_master_key_that_is_too_short_is_refused(path: Path, master: Path) -> None:
    master.write_text("secret\n")
    with (
        Store.open(path, keys=KeyFile.of(path, master_file=master)) as store,
        pytest.raises(KeyFileError, match="at least 32 random bytes"),
    ):
        store.enroll(ANA, [template()])
    assert not path.with_name("kiosk.db.key").exists()


def test_the_services_credential_is_the_master_key(path: Path, master: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(master.parent))
    assert KeyFile.of(path).master_file is None
    master.rename(master.with_name("store-key"))
    with Store.open(path) as store:
        store.enroll(ANA, [template()])
    assert KeyFile.of(path).read().wrapped


def test_a_master_key_that_cannot_seal_is_told_although_the_key_is_open(filled: Path, tmp_path: Path) -> None:
    missing, short = tmp_path / "mistyped", tmp_path / "short"
    short.write_text("short", encoding="ascii")
    for master, told in ((missing, "mistyped: the master key is missing"), (short, "needs at least 32 random bytes")):
        with pytest.raises(KeyFileError, match=told):
            KeyFile.of(filled, master_file=master).read()
    assert not KeyFile.of(filled).read().wrapped


# --- another key, another master key


@pytest.mark.parametrize("sealed_before", [False, True])
@pytest.mark.parametrize("sealing", [False, True])
def test_another_secret_seals_a_new_key_and_backups_go_along(
    filled: Path, master: Path, *, sealed_before: bool, sealing: bool
) -> None:
    other = master.with_name("other")
    other.write_text("b" * 44)
    keys = KeyFile.of(filled, master_file=master if sealed_before else None)
    with Store.open(filled, keys=keys) as store:
        with store.backups.alone():
            old_backup = store.backups.take().path
        before = keys.read().current
        assert store.rekey(other if sealing else None)
        assert len(who(store)) == PEOPLE
        assert [row.action for row in store.audit_rows()][-1] == "rekey"
    ring = KeyFile.of(filled, master_file=other if sealing else None).read()
    assert (ring.wrapped, len(ring.keys), ring.find(before.id)) == (sealing, 1, None)
    assert not old_backup.exists()
    if sealing:
        with pytest.raises(KeyFileError, match="is not what the key file was sealed with"):
            KeyFile.of(filled, master_file=master).read()
    for path in (filled, *filled.parent.glob("backups/*.db")):
        assert {row["key_id"] for row in sealed(path)} == {ring.current.id}
    assert before.secret.hex().encode() not in everything(filled.parent)


def test_a_secret_that_cannot_seal_changes_nothing(filled: Path, master: Path) -> None:
    master.write_text("short")
    with Store.open(filled) as store:
        before, rows = store.keys.read(), store.audit_rows()
        with pytest.raises(KeyFileError, match="at least 32 random bytes"):
            store.rekey(master)
        assert (store.keys.read(), store.audit_rows()) == (before, rows)
        assert store.finish_erasures()
        assert store.keys.read() == before


def test_a_change_of_the_secret_that_is_not_on_record_is_taken_back(
    filled: Path, master: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store.open(filled) as store:
        before = store.keys.read()
        write = KeyFile.write

        def spoil_the_commit(*arguments: Any, **options: Any) -> object:
            ring = write(*arguments, **options)
            for sql in ("PRAGMA defer_foreign_keys = ON", "UPDATE templates SET subject_id = 'x' WHERE id = 1"):
                store._database.execute(sql)  # type: ignore[union-attr]
            monkeypatch.undo()
            return ring

        monkeypatch.setattr(KeyFile, "write", spoil_the_commit)
        with pytest.raises(KioskError, match="FOREIGN KEY"):
            store.rekey(master)
        assert KeyFile.of(filled).read().keys == before.keys
        assert len(who(store)) == PEOPLE


@pytest.mark.stories
def test_rekey_tells_what_to_set(kiosk: Kiosk, master: Path) -> None:
    with Store.open(kiosk.store) as store:
        enroll(store, range(2))
    done = kiosk("privacy", "rekey", "--master", master)
    assert (done.returncode, done.stdout) == (
        0,
        f"2 templates with a new key; {kiosk.store}.key is sealed with {master}\n",
    )
    assert f"{master} opens the key file: set store.master_key_file" in done.stderr
    assert kiosk("privacy", "rekey").returncode == 78
    kiosk.configure(store={"master_key_file": str(master)})
    assert kiosk("privacy", "rekey", "--unsealed").returncode == 0
    assert not KeyFile.of(kiosk.store).read().wrapped
    check = kiosk("check", "--json")
    (key,) = [one["message"] for one in json.loads(check.stdout)["checks"] if one["name"] == "key"]
    assert f"will be sealed with {master} at the next start or enrollment" in key
    assert kiosk("privacy", "rekey", "--unsealed", "--master", master).returncode == 64
