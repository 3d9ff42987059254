"""A gallery moves from one kiosk to another: whole, or not at all, and only whom it may bring."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import sqlite3
import stat
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from command_line import Kiosk
from numpy.typing import NDArray
from runner import assert_one_line_error, dump, enroll_people, run_in_process
from test_store import ORIGIN, check_in, moment

from kiosk import gallery_file
from kiosk.biometrics import ModelId, Quality, SubjectId
from kiosk.bundle import BUILT_IN, BUILT_IN_BUNDLE, read_bundle
from kiosk.clock import SystemClock
from kiosk.codes import Kind
from kiosk.commands.gallery_audit import look
from kiosk.config import load
from kiosk.errors import StoreError
from kiosk.events import EventType
from kiosk.gallery_file import open_gallery
from kiosk.pipeline import build_rule
from kiosk.store import Action, Consent, NewTemplate, Store
from kiosk.store._damage import find_damage

pytestmark = pytest.mark.stories

BUNDLE = read_bundle(BUILT_IN / BUILT_IN_BUNDLE)
MODEL, OLD = BUNDLE.model_id, ModelId("old-int8@000000")
DIM = BUNDLE.manifest.embedding_dim
QUALITY = Quality(120.0, 61.5, 130.0, -0.05, None, 50.3, 40.2, 0.001, 0.12, 0.95)
PASSWORD = "correct horse battery"  # noqa: S105
FOREVER = Consent("HR-17", "2026-01-02", "v3", "2099-12-31")


@pytest.fixture(autouse=True)
def _cheap_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """The least that a file may ask of scrypt."""
    monkeypatch.setattr(gallery_file, "_SCRYPT_N", 1 << 14)


@pytest.fixture(autouse=True)
def _trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that follows a time server, whatever this machine's does."""
    monkeypatch.setattr(SystemClock, "synchronized", lambda _: True)


def photos(seed: int, count: int = 3, first: int = 0) -> list[NewTemplate]:
    """Of one made-up person; two of them score 0.96 with each other, with anybody else's some 0."""
    random = np.random.default_rng(seed)
    face = random.standard_normal(DIM)
    rows: NDArray[np.float64] = face / np.linalg.norm(face) + 0.2 / np.sqrt(DIM) * random.standard_normal((9, DIM))
    made = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return [
        NewTemplate(MODEL, row, QUALITY, f"{seed:032x}{first + at:032x}", f"2026-01-02T08:00:{at:02}.000Z")
        for at, row in enumerate(made[first : first + count], first)
    ]


class Home:
    """A kiosk, its commands run within this process, and what they print."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str], runtime: str) -> None:
        folder.mkdir()
        self.kiosk = Kiosk(folder, runtime)
        self.folder = folder
        self.password = folder / "password"
        self.password.write_text(PASSWORD + "\n")
        self.password.chmod(0o600)
        self._capsys = capsys

    def __call__(self, *arguments: str | Path, code: int = 0) -> str:
        """What the command prints; or, where it is to fail, its one line."""
        self._capsys.readouterr()
        found = run_in_process(*map(str, arguments), "--config", str(self.kiosk.config))
        told = self._capsys.readouterr()
        assert found == code, told.err
        return told.out if code == 0 else assert_one_line_error(told.err)

    def export(self, *arguments: str | Path, code: int = 0, file: str = "out.gallery") -> tuple[Path, str]:
        path = self.folder / file
        return path, self("subjects", "export", path, *arguments, "--password-file", self.password, code=code)

    def take(self, file: Path, *arguments: str | Path, code: int = 0) -> str:
        return self("subjects", "import", file, *arguments, "--password-file", self.password, code=code)

    def refuses(self, file: Path, *arguments: str | Path, code: int = 65) -> str:
        """The one line; and nothing has changed."""
        before = dump(self.kiosk.store)
        line = self.take(file, *arguments, code=code)
        assert dump(self.kiosk.store) == before
        return line

    @contextlib.contextmanager
    def store(self, *, writable: bool = True) -> Iterator[Store]:
        with Store.open(self.kiosk.store, writable=writable) as store:
            yield store

    def enroll(self, people: dict[str, list[NewTemplate]], consent: Consent | None = FOREVER) -> None:
        with self.store() as store:
            for name, templates in people.items():
                store.enroll(SubjectId(name), templates, name=f"Name of {name}", consent=consent)

    def templates(self) -> dict[str, int]:
        with self.store(writable=False) as store:
            return {subject.id: subject.templates for subject in store.subjects()}

    def actions(self) -> list[tuple[str, str | None]]:
        with self.store(writable=False) as store:
            return [(row.action, row.subject_id) for row in store.audit_rows()]


@pytest.fixture
def a(tmp_path: Path, capsys: pytest.CaptureFixture[str], runtime: str) -> Home:
    """Four people."""
    home = Home(tmp_path / "a", capsys, runtime)
    home.enroll({f"E{number}": photos(number, 1 + number % 3) for number in range(1, 5)})
    return home


@pytest.fixture
def b(tmp_path: Path, capsys: pytest.CaptureFixture[str], runtime: str) -> Home:
    """Nobody."""
    home = Home(tmp_path / "b", capsys, runtime)
    with home.store():
        pass
    return home


# --- there and back


def test_two_kiosks_then_decide_alike(a: Home, b: Home) -> None:
    file, told = a.export()
    assert told == f"4 subjects with 8 templates of {MODEL} written to {file}\n"
    assert b.take(file) == "4 subjects imported with 8 templates, 4 of them new\n"
    config = load(b.kiosk.config, {})
    with a.store(writable=False) as one, b.store(writable=False) as other:
        here, there = one.gallery(MODEL), other.gallery(MODEL)
        assert (here.subjects, here.template_counts) == (there.subjects, there.template_counts)
        assert np.array_equal(here.matrix, there.matrix)
        rules = build_rule(config, BUNDLE, here), build_rule(config, BUNDLE, there)
        for seed in (*range(1, 5), *range(100, 120)):
            for template in photos(seed, 2, 5):
                found = [
                    rule.decide(gallery.search(template.embedding))
                    for rule, gallery in zip(rules, (here, there), strict=True)
                ]
                assert found[0] == found[1]
                assert found[0].subject_id == (f"E{seed}" if seed < 5 else None)


def test_all_that_belongs_to_them_is_there_and_sealed_with_the_other_kiosks_key(a: Home, b: Home) -> None:
    file, _ = a.export()
    b.take(file)
    tables = dump(a.kiosk.store), dump(b.kiosk.store)
    # But for the digest, which is over what they hold.
    assert [row[:7] for row in tables[0]["subjects"]] == [row[:7] for row in tables[1]["subjects"]]
    with a.store(writable=False) as one, b.store(writable=False) as other:
        for subject in one.subjects():
            here, there = one.template_infos(subject.id), other.template_infos(subject.id)
            assert [(i.model_id, i.created_at, i.quality, i.source_sha256) for i in here] == [
                (i.model_id, i.created_at, i.quality, i.source_sha256) for i in there
            ]
        keys = one.keys.read().current, other.keys.read().current
        assert keys[0] != keys[1]
        assert {row["key_id"] for row in other._rows("SELECT key_id FROM templates")} == {keys[1].id}
        assert other.integrity_problem() is None
        assert other.verify_audit().problems == ()
    assert find_damage(b.kiosk.store) is None
    assert load(b.kiosk.config, {}).store.path == b.kiosk.store


def test_to_import_again_changes_nothing(a: Home, b: Home) -> None:
    file, _ = a.export()
    b.take(file)
    before = dump(b.kiosk.store)
    assert b.take(file) == "nothing to import; 4 were here with all of it already\n"
    assert a.take(file) == "nothing to import; 4 were here with all of it already\n"
    assert dump(b.kiosk.store) == before


def test_only_who_is_named_and_what_json_says(a: Home, b: Home) -> None:
    file, told = a.export("E3", "E1", "E3", "--json")
    document = json.loads(told)
    assert (document["people"], document["templates"], document["model"]) == (2, 3, MODEL)
    assert document["bytes"] == file.stat().st_size
    document = json.loads(b.take(file, "--json"))
    assert (document["imported"], document["new"], document["templates"]) == (["E1", "E3"], ["E1", "E3"], 3)
    assert b.templates() == {"E1": 2, "E3": 1}


def test_a_code_stays_behind_and_who_has_no_face_comes_along(a: Home, b: Home) -> None:
    with a.store() as store:
        store.enroll(SubjectId("code"), [], name="No Face")
        store.set_pin(SubjectId("code"), salt=b"s" * 16, digest=b"d" * 32, now_ms=0)
    file, _ = a.export()
    b.take(file)
    assert b.templates()["code"] == 0
    with b.store(writable=False) as store:
        assert store.codes() == []


def test_the_file_is_private_whole_and_says_nothing_of_anybody(a: Home) -> None:
    file, _ = a.export()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in a.folder.iterdir() if "gallery" in path.name] == ["out.gallery"]
    content = file.read_bytes()
    assert b"Name of" not in content
    assert b"HR-17" not in content
    header, people = open_gallery("x", content, PASSWORD)
    assert (header.site, header.device, header.clock_synchronized) == ("hq", "door-1", True)
    assert people[0].name == "Name of E1"


def test_export_and_import_stand_in_the_audit_log(a: Home, b: Home) -> None:
    file, told = a.export("E1", "E2", "--json")
    digest = json.loads(told)["sha256"]
    b.take(file)
    assert a.actions()[-3:] == [("export", None), ("export", "E1"), ("export", "E2")]
    assert b.actions() == [("import", None), ("enroll", "E1"), ("enroll", "E2")]
    with a.store(writable=False) as one, b.store(writable=False) as other:
        left, came = one.audit_rows()[-3:], other.audit_rows()
    assert left[0].detail() == {"people": 2, "templates": 5, "model": MODEL, "sha256": digest}
    assert left[1].detail() == {"file": digest[:16]}
    assert came[0].detail()["sha256"] == digest
    assert (came[0].detail()["from"], came[0].detail()["people"]) == ("hq/door-1", 2)
    assert came[1].detail()["new"] is True
    assert came[1].detail()["templates"] == {MODEL: 2}
    # What was done with one person is told to that person.
    report = json.loads(a("privacy", "report", "--subject", "E1", "--json"))
    assert "export" in json.dumps(report)
    # Nobody comes unseen for as long as they were elsewhere.
    with b.store(writable=False) as store:
        assert store.history(datetime.now(UTC).date()).unseen_days(SubjectId("E1")) == 0


# --- what is refused


def test_files_that_are_no_good(a: Home, b: Home) -> None:
    file, _ = a.export()
    content = file.read_bytes()
    bad = b.folder / "bad"
    for changed, words in (
        (b"", "not an export"),
        (b"PK\x03\x04 a zip", "not an export"),
        (content[:-7], "cut off"),
        (content[:60], "cut off"),
        (content.replace(b"gallery 1", b"gallery 2"), "newer version"),
        (content[:-1] + bytes([content[-1] ^ 4]), "altered or damaged"),
        (content + b"more", "behind its end"),
    ):
        bad.write_bytes(changed)
        assert words in b.refuses(bad)
    with bad.open("wb") as target:
        target.truncate(300 << 20)
    assert "larger than any export" in b.refuses(bad)
    assert "no such file" in b.refuses(b.folder / "missing")
    assert "is a directory" in b.refuses(b.folder)


def test_passwords(a: Home, b: Home) -> None:
    file, _ = a.export()
    b.password.write_text("correct horse batterx")
    assert "the password is wrong" in b.refuses(file)
    b.password.write_text("")
    assert "holds no password" in b.refuses(file)
    b.password.write_bytes(b"\xff\xfe")
    assert "not UTF-8" in b.refuses(file)
    b.password.unlink()
    assert "the password cannot be read: no such file" in b.refuses(file)
    assert "--password-file FILE" in b("subjects", "import", file, code=64)
    a.password.write_text("short")
    path, line = a.export(file="second", code=64)
    assert "needs 12 characters or more" in line
    assert not path.exists()


def test_another_model_is_refused_and_how_to_get_it_is_said(a: Home, b: Home) -> None:
    file, _ = a.export()
    content = file.read_bytes()
    other = b.folder / "other"
    other.write_bytes(content.replace(str(MODEL).encode(), b"facenet512-int8@af5800", 1))
    line = b.refuses(other, code=69)
    assert "made with facenet512-int8@af5800, and this kiosk recognizes with" in line
    assert "kiosk model install FOLDER" in line
    assert "set model.bundle: facenet512-int8" in line
    b.kiosk.configure(face={"detector": "haar"}, match={"threshold": 0.9})
    line = b.refuses(file, code=69)
    assert "nothing was imported: set face.detector: blazeface, then" in line


def test_who_is_here_with_other_templates(a: Home, b: Home) -> None:
    b.enroll({"E1": photos(1, 1, 4), "E2": photos(2, 3)})
    file, _ = a.export()
    line = b.refuses(file)
    assert "E1 is here already with other templates" in line
    for option in ("--merge", "--replace", "--leave-out"):
        assert option in line
    assert "exclude each other" in b.refuses(file, "--merge", "--replace", code=64)
    assert b.take(file, "--leave-out", "E1").startswith("2 subjects imported with 3 templates, 2 of them new; 1 were")
    assert b.templates() == {"E1": 1, "E2": 3, "E3": 1, "E4": 2}
    assert "nobody in the file is called E9" in b.refuses(file, "--leave-out", "E9")


def test_merge_adds_and_keeps_what_is_here(a: Home, b: Home) -> None:
    b.enroll({"E1": [*photos(1, 1, 4), *photos(1, 1)]}, Consent("HERE", "2026-02-02"))
    with b.store() as store:
        store.rename_subject("E1", "Here")
    file, _ = a.export("E1")
    assert b.take(file, "--merge").startswith("1 subject imported with 1 template, 0 of them new")
    with b.store(writable=False) as store:
        (subject,) = store.subjects()
    assert (subject.name, subject.consent_reference, subject.templates) == ("Here", "HERE", 3)
    assert b.take(file, "--merge").startswith("nothing to import; 1 ")


def test_replace_puts_the_files_in_their_place_and_erases_the_others(a: Home, b: Home) -> None:
    b.enroll({"E1": [*photos(1, 2, 4), NewTemplate(OLD, photos(1)[0].embedding)]}, Consent("HERE", "2026-02-02"))
    with b.store() as store, store.backups.alone():
        store.backups.take()
        before = store.keys.read().current
    file, _ = a.export("E1")
    assert b.take(file, "--replace").startswith("1 subject imported with 2 templates, 0 of them new")
    with b.store(writable=False) as store:
        (subject,) = store.subjects()
        assert (subject.name, subject.consent_reference) == ("Name of E1", "HR-17")
        assert len(store.template_infos("E1")) == 2
        assert np.array_equal(store.templates(MODEL)[0].embedding, photos(1)[0].embedding)
        # As after every erasure.
        assert store.keys.read().find(before.id) is None
        assert store.audit_rows()[-1].detail()["replaced"] == 3
    assert b.take(file, "--replace").startswith("nothing to import")
    # Who is here with more than the file has is left alone, unless the file's are to be all.
    b.enroll({"E1": photos(1, 1, 7)})
    assert b.take(file).startswith("nothing to import")
    b.take(file, "--replace")
    assert b.templates() == {"E1": 2}


def test_events_hold_the_name_that_an_import_brings(a: Home, b: Home) -> None:
    b.enroll({"E1": photos(1, 1, 4), "E2": photos(2, 1, 4), "E5": photos(5)})
    with b.store() as store:
        store.rename_subject("E1", "Wrong")
        for subject_id, with_name in (("E1", True), ("E1", False), ("E2", True), ("E5", True)):
            check_in(store, SubjectId(subject_id), include_name=with_name)
    file, _ = a.export("E1", "E2")

    def named() -> list[str | None]:
        with b.store(writable=False) as store:
            rows = store._rows("SELECT payload FROM outbox ORDER BY seq")
            return [json.loads(row["payload"])["subject"].get("name") for row in rows]

    b.take(file, "--merge")
    assert named() == ["Wrong", None, "Name of E2", "Name of E5"]
    b.take(file, "--replace")
    assert named() == ["Name of E1", None, "Name of E2", "Name of E5"]
    assert find_damage(b.kiosk.store) is None


def test_an_id_that_is_somebody_else_here(a: Home, b: Home) -> None:
    b.enroll({"E1": photos(50), "E5": photos(51)})
    file, _ = a.export()
    for mode in ("--merge", "--replace"):
        assert re.search(r"in the file E1 \(score -?0\.\d\d\) is not the same person as here", b.refuses(file, mode))
    b.take(file, "--replace", "--force")
    assert b.templates() == {"E1": 2, "E2": 3, "E3": 1, "E4": 2, "E5": 3}


def test_a_face_that_is_here_under_another_id(a: Home, b: Home) -> None:
    b.enroll({"B9": photos(3, 2, 5), "B8": photos(60)})
    file, _ = a.export()
    line = b.refuses(file)
    assert re.search(r"enrolled here under another id: E3 as B9 \(score 0\.9\d\)", line)
    b.take(file, "--force")
    assert len(b.templates()) == 6


def test_consents_that_do_not_hold(a: Home, b: Home) -> None:
    yesterday = (datetime.now(UTC).date() - timedelta(days=2)).isoformat()
    a.enroll({"E5": photos(5), "E6": photos(6)}, None)
    file, _ = a.export()
    b.kiosk.configure(privacy={"require_consent": True})
    assert "no consent of E5, E6 is in the file" in b.refuses(file)
    b.take(file, "--leave-out", "E5", "--leave-out", "E6")
    b.kiosk.configure(privacy={"require_consent": False})
    b.take(file)
    # One that ended since it was exported: what is here counts where it stays.
    with a.store() as store:
        store.enroll(SubjectId("E7"), photos(7), consent=Consent("R", "2020-01-01", None, "2099-01-01"))
    late, _ = a.export("E7", file="late")
    text = late.read_bytes()
    _, people = open_gallery("x", text, PASSWORD)
    ended = people[0].consent.model_copy(update={"until": yesterday})  # type: ignore[union-attr]
    origin = gallery_file.Origin("2026-03-02T08:00:00Z", clock_synchronized=True, site="hq", device="d", kiosk="0")
    late.write_bytes(gallery_file.seal_gallery([replace(people[0], consent=ended)], MODEL, DIM, origin, PASSWORD))
    assert f"the consent of E7 (on {yesterday}) has ended" in b.refuses(late)
    b.enroll({"E7": photos(7, 1, 5)})
    assert "the consent of E7" in b.refuses(late, "--replace")
    b.take(late, "--merge")


def test_lapsed_people_and_those_of_another_model_are_not_exported(a: Home) -> None:
    with a.store() as store:
        store.set_consent("E1", Consent("R", "2020-01-01", None, "2020-12-31"))
        store.enroll(SubjectId("old"), [NewTemplate(OLD, photos(9)[0].embedding)])
    _, told = a.export("--json")
    document = json.loads(told)
    assert document["people"] == 3
    assert document["left_out"] == [
        "E1: the consent has ended",
        f"old: has no template of the model in use, {MODEL}",
    ]
    for one, why in (("E1", "the consent has ended"), ("old", "no template of the model in use")):
        path, line = a.export(one, "E2", file="second", code=65)
        assert why in line
        assert not path.exists()
    assert "E9: nobody is enrolled under this id" in a.export("E9", file="second", code=65)[1]


def test_templates_that_cannot_be_read_are_told_and_left_behind(a: Home, b: Home) -> None:
    with contextlib.closing(sqlite3.connect(a.kiosk.store)) as db, db:
        # A bit in one of E2's, and all of E1's.
        db.execute("UPDATE templates SET embedding = zeroblob(556) WHERE id = 3 OR subject_id = 'E1'")
    document = json.loads(a.export("--json")[1])
    assert document["left_out"] == [
        "E1: 2 templates cannot be read (`kiosk subjects audit`)",
        "E2: 1 template cannot be read (`kiosk subjects audit`)",
    ]
    b.take(a.folder / "out.gallery")
    assert b.templates() == {"E2": 2, "E3": 1, "E4": 2}


# --- who was erased here


def test_nobody_who_was_erased_comes_back_unasked(a: Home, b: Home) -> None:
    file, _ = a.export()
    b.take(file)
    b("subjects", "remove", "E2", "--yes")
    line = b.refuses(file)
    assert "E2 was erased here (last at " in line
    assert "--bring-back" in line
    assert "--leave-out" in line
    # Nor by a file that was exported later, from a kiosk that still has the same templates.
    later, _ = a.export(file="later")
    assert "E2 was erased here" in b.refuses(later)
    assert "E2" in b.refuses(later, "--force")
    b.take(later, "--leave-out", "E2")
    b.take(file, "--bring-back")
    assert b.templates()["E2"] == 3
    # The log tells who brought whom back.
    with b.store(writable=False) as store:
        row = next(row for row in reversed(store.audit_rows()) if row.action == Action.IMPORT)
        assert row.detail()["bring_back"] is True


@pytest.mark.parametrize("anew", ["enrolled", "consented"])
def test_who_agreed_anew_after_the_erasure_may_come(a: Home, b: Home, anew: str) -> None:
    b.enroll({"E1": photos(1)})
    b("subjects", "remove", "E1", "--yes")
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    with a.store() as store:
        if anew == "enrolled":
            (template,) = photos(1, 1, 6)
            late = NewTemplate(MODEL, template.embedding, QUALITY, "f" * 64, f"{tomorrow:%Y-%m-%dT%H:%M:%S.000Z}")
            store.enroll(SubjectId("E1"), [late])
        else:
            store.set_consent("E1", Consent("HR-18", f"{tomorrow:%Y-%m-%d}", None, "2099-12-31"))
    file, _ = a.export("E1")
    assert b.take(file).startswith("1 subject imported")


@pytest.mark.parametrize("unset", ["here", "there"])
def test_where_a_clock_was_not_set_an_erasure_counts(
    a: Home, b: Home, unset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    b.enroll({"E1": photos(1)})
    monkeypatch.setattr(SystemClock, "synchronized", lambda _: unset != "here")
    b("subjects", "remove", "E1", "--yes")
    monkeypatch.setattr(SystemClock, "synchronized", lambda _: True)
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    with a.store() as store:
        store.set_consent("E1", Consent("HR-18", f"{tomorrow:%Y-%m-%d}", None, "2099-12-31"))
    monkeypatch.setattr(SystemClock, "synchronized", lambda _: unset != "there")
    file, _ = a.export("E1")
    monkeypatch.setattr(SystemClock, "synchronized", lambda _: True)
    assert "E1 was erased here" in b.refuses(file)


def test_of_several_erasures_the_last_counts_and_is_sure_if_all_are(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for synchronized in (False, True):
        monkeypatch.setattr(SystemClock, "synchronized", lambda _, now=synchronized: now)
        for name in ("E1", "E2") if synchronized else ("E1",):
            store.enroll(SubjectId(name), photos(1))
            receipt = store.remove_subject(name)
    found = store.erasures()
    assert {name: erasure.certain for name, erasure in found.items()} == {"E1": False, "E2": True}
    assert found[SubjectId("E2")].at == receipt.erased_at


# --- all or nothing


def test_what_fails_half_way_leaves_nothing(a: Home, b: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    file, _ = a.export()

    def full(*_: object) -> None:
        raise StoreError("no space left")

    monkeypatch.setattr(Store, "_log_all", full)
    assert "no space left" in b.refuses(file, code=73)
    path, line = a.export(file="second", code=73)
    assert "no space left" in line
    assert [one.name for one in a.folder.iterdir() if "second" in one.name] == []
    assert not path.exists()


def test_a_file_whose_row_cannot_be_written_goes_again(a: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextlib.contextmanager
    def fail(*_: object) -> Iterator[None]:
        yield
        raise StoreError("no space left")

    monkeypatch.setattr(Store, "log_export", fail)
    path, line = a.export(code=73)
    assert "no space left" in line
    assert not path.exists()


def test_a_name_that_is_none_is_refused(a: Home, b: Home) -> None:
    file, _ = a.export("E1", "E2")
    header, people = open_gallery("x", file.read_bytes(), PASSWORD)
    origin = gallery_file.Origin(header.exported_at, clock_synchronized=True, site="hq", device="d", kiosk="0")
    for change in ({"name": "two\nlines"}, {"id": SubjectId("..")}):
        bad = [people[0], replace(people[1], **change)]  # type: ignore[arg-type]
        file.write_bytes(gallery_file.seal_gallery(bad, MODEL, DIM, origin, PASSWORD))
        b.refuses(file)


def test_what_changes_between_the_look_and_the_import_is_noticed(
    a: Home, b: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    b.enroll({"E9": photos(90)})
    file, _ = a.export()
    taken = Store.import_people

    def meanwhile(change: Callable[[Store], object]) -> None:
        def later(store: Store, *arguments: object) -> None:
            with Store.open(b.kiosk.store) as other:
                change(other)
            taken(store, *arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(Store, "import_people", later)

    meanwhile(lambda store: store.enroll(SubjectId("E1"), photos(1, 1, 7)))
    assert "E1 was changed meanwhile" in b.take(file, code=65)
    with b.store() as store:
        store.remove_subject("E1")
    meanwhile(lambda store: store.remove_subject("E9"))
    assert "somebody was erased meanwhile" in b.take(file, "--leave-out", "E1", code=65)
    assert b.templates() == {}


def test_who_is_erased_while_a_file_is_made_is_not_in_it(a: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    sealing = gallery_file.seal_gallery

    def slowly(*arguments: object) -> bytes:
        with a.store() as store:
            store.remove_subject("E2")
        return sealing(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(gallery_file, "seal_gallery", slowly)
    path, line = a.export(code=65)
    assert "E2 was erased meanwhile" in line
    assert not path.exists()


def test_where_a_file_cannot_be(a: Home, b: Home) -> None:
    path, _ = a.export()
    before = path.read_bytes()
    assert "is there already" in a.export(code=74)[1]
    assert path.read_bytes() == before
    assert "is there already" in a("subjects", "export", a.kiosk.store, "--password-file", a.password, code=74)
    assert "no such file or directory" in a.export(file="no/folder", code=74)[1]
    assert "nobody is enrolled" in b.export(code=65)[1]
    if os.geteuid() != 0:
        a.folder.chmod(0o500)
        assert "may not be written" in a.export(file="third", code=77)[1]
        a.folder.chmod(0o700)


# --- as it is typed


def typed(kiosk: Kiosk, answers: list[bytes], *arguments: str | Path) -> tuple[int, str]:
    """At a terminal that answers each question about the password."""
    child, terminal = pty.fork()
    if child == 0:
        os.environ.update(kiosk._environment_with({}))
        os.execv(sys.executable, [sys.executable, "-m", "kiosk", *map(str, arguments)])  # noqa: S606
    told, asked = b"", 0
    # Linux ends a terminal whose other side is gone with an error.
    with contextlib.suppress(OSError):
        while part := os.read(terminal, 4096):
            told += part
            if answers and told.count(b": ") > asked:
                asked = told.count(b": ")
                os.write(terminal, answers.pop(0) + b"\n")
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), told.decode()


@pytest.mark.stories
def test_the_password_is_asked_for_at_a_terminal_twice_and_once_and_not_shown(a: Home, b: Home) -> None:
    file = a.folder / "typed"
    secret = PASSWORD.encode()
    code, told = typed(a.kiosk, [secret, secret], "subjects", "export", file)
    assert code == 0, told
    assert PASSWORD not in told
    code, told = typed(b.kiosk, [secret], "subjects", "import", file)
    assert code == 0, told
    assert "4 subjects imported" in told
    assert PASSWORD not in told


@pytest.mark.stories
def test_real_photos_are_recognized_alike_on_both(
    tmp_path: Path, samples: Path, runtime: str, capsys: pytest.CaptureFixture[str]
) -> None:
    homes = [Home(tmp_path / name, capsys, runtime) for name in "ab"]
    enroll_people(homes[0].kiosk, samples)
    file, _ = homes[0].export()
    homes[1].take(file)
    probes = [samples / name for name in ("obama2.jpg", "obama3.jpg", "biden.jpg", "collins.jpg")]
    found = [json.loads(home("identify", *probes, "--json")) for home in homes]
    assert found[0] == found[1]
    decisions = [image["faces"][0]["subject_id"] for image in found[0]["images"]]
    assert decisions == ["obama", "obama", "biden", None]


# --- the audit of a real store


def test_the_audit_tells_what_is_there_and_what_could_not_be_looked_at(a: Home, b: Home) -> None:
    a.enroll({"E5": [*photos(5, 2), photos(70)[0]], "E6": photos(4, 2, 6)})
    with a.store() as store:
        store.enroll(SubjectId("old"), [NewTemplate(OLD, photos(9)[0].embedding)])
    with contextlib.closing(sqlite3.connect(a.kiosk.store)) as db, db:
        db.execute("UPDATE templates SET embedding = zeroblob(556) WHERE id = 1")
    document = json.loads(a("subjects", "audit", "--json"))
    found = {(finding["issue"], finding["subject_id"]): finding for finding in document["findings"]}
    assert set(found) >= {
        ("unreadable", "E1"),
        ("other_model", "old"),
        ("misfit", "E5"),
        ("alike", "E4"),
        ("few_templates", "E3"),
    }
    assert found["unreadable", "E1"]["templates"] == [1]
    assert found["alike", "E4"]["other_id"] == "E6"
    assert not next(check for check in document["checks"] if check["issue"] == "unseen")["looked"]
    assert "show only 0 days on which the kiosk was in use" in " ".join(document["notes"])
    told = a("subjects", "audit")
    assert "URGENT too alike to be told apart: 1" in told
    assert "kiosk subjects remove E5 --template" in told
    assert "ok     no consent has ended" in told
    # What it advises can be done.
    misfit = found["misfit", "E5"]
    command = next(step["command"] for step in misfit["steps"] if "--template" in step["command"])
    assert a(*command.split()[1:], "--yes") == f"template {misfit['templates'][0]} of E5 erased; 2 templates left\n"
    with a.store(writable=False) as store:
        assert len(store.keys.read().keys) == 1
        assert (store.audit_rows()[-1].action, store.audit_rows()[-1].subject_id) == (Action.DROP_TEMPLATES, "E5")
    assert "goes with SUBJECT_ID" in a("subjects", "remove", "--due", "--template", "1", code=64)
    assert "has no template 4711" in a("subjects", "remove", "E5", "--template", "4711", "--yes", code=65)
    assert "misfit" not in {one["issue"] for one in json.loads(a("subjects", "audit", "--json"))["findings"]}
    assert b("subjects", "audit").startswith("0 subjects")


def test_a_gallery_with_nothing_wrong_is_called_that(b: Home) -> None:
    b.enroll({f"E{number}": photos(number) for number in range(1, 5)})
    told = b("subjects", "audit")
    assert told.endswith("nothing is wrong with this gallery, as far as could be looked\n")
    assert "ok     everybody has three different photos or more" in told


def test_who_comes_by_code_only_is_told_where_the_kiosk_was_in_use(b: Home) -> None:
    start = datetime.now(UTC) - timedelta(days=40)
    b.enroll({"face": photos(1), "code": photos(2), "never": photos(3)})
    with b.store() as store, store._writing() as db:
        for table, column in (("audit", "occurred_at"), ("subjects", "created_at"), ("templates", "created_at")):
            db.execute(f"UPDATE {table} SET {column} = ?", [f"{start:%Y-%m-%dT%H:%M:%S.000Z}"])  # noqa: S608
    with b.store() as store:
        for number in range(40):
            at = moment(round((start + timedelta(days=number)).timestamp() * 1000))
            check_in(store, "face", at, outbox=False)
            store.record_code_check_in(
                SubjectId("code"), Kind.PIN, event_type=EventType.CHECK_IN, moment=at, origin=ORIGIN, outbox=False
            )
    with b.store(writable=False) as store:
        audit = look(load(b.kiosk.config, {}), store, 30)
    assert audit.watched_days == 39
    unseen = {one.subject_id: one for one in audit.findings if one.issue == "unseen"}
    assert set(unseen) == {"code", "never"}
    assert "came otherwise, last on" in unseen[SubjectId("code")].message
    assert unseen[SubjectId("never")].message.endswith("; came never")
    with b.store(writable=False) as store:
        audit = look(load(b.kiosk.config, {}), store, 60)
    assert not any(one.issue == "unseen" for one in audit.findings)
    assert any("cannot be told" in note for note in audit.notes())
