"""``kiosk enroll --from-dir`` for many people: interrupted and run again, and the report of what was left out."""

from __future__ import annotations

import csv
import fcntl
import json
import shutil
import signal
import time
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from command_line import Kiosk
from runner import assert_one_line_error, run_in_process

from kiosk.biometrics import ModelId, Quality, SubjectId
from kiosk.commands import enroll
from kiosk.commands.enroll_memory import Memory
from kiosk.commands.rejections import COLUMNS, REASONS, Rejection, Report, Totals, summarize
from kiosk.decision import DecisionRule
from kiosk.enrollment import EnrolledPhoto, RejectedPhoto
from kiosk.errors import OutputError, UnavailableError, UsageError
from kiosk.opencv import cv2
from kiosk.photo import Photo
from kiosk.store import KeyFile, NewTemplate, Store

pytestmark = pytest.mark.stories

MODEL = ModelId("m@000001")
ALL = Totals(people=2, people_done=2, photos=5, enrolled=3)


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory, samples: Path) -> Path:
    """Three people, and between them who is refused: photos of the same face, of none, and what is no photo."""
    folder = tmp_path_factory.mktemp("photos") / "people"
    blurred = cv2.GaussianBlur(cv2.imread(str(samples / "biden.jpg")), (0, 0), 7)  # type: ignore[arg-type]
    for subject_id, photo in {
        "a_biden": "biden_portrait.jpg",
        "b_obama": "obama.jpg",
        "c_biden": "biden.jpg",
        "d_obama": "obama3.jpg",
        "g_collins": "collins.jpg",
    }.items():
        (folder / subject_id).mkdir(parents=True)
        shutil.copy(samples / photo, folder / subject_id)
    shutil.copy(samples / "obama2.jpg", folder / "b_obama")
    (folder / "h_collins").mkdir()
    (folder / "h_collins" / "collins.jpg").write_bytes((samples / "collins.jpg").read_bytes() + b"another file")
    cv2.imwrite(str(folder / "a_biden" / "blurred.jpg"), blurred)
    (folder / "e_nobody").mkdir()
    cv2.imwrite(str(folder / "e_nobody" / "wall.png"), np.full((200, 200, 3), 128, np.uint8))
    (folder / "f=broken").mkdir()
    (folder / "f_broken").mkdir()
    (folder / "f_broken" / "=1+1.jpg").write_text("no photo")
    shutil.copy(samples / "collins.jpg", folder / "stray.jpg")
    return folder


WRONG = {
    ("", "stray.jpg", "no_folder", ""),
    ("f=broken", "", "bad_subject_id", ""),
    ("a_biden", "blurred.jpg", "blurred", ""),
    ("c_biden", "biden.jpg", "duplicate_face", "a_biden"),
    ("d_obama", "obama3.jpg", "duplicate_face", "b_obama"),
    ("e_nobody", "wall.png", "no_face", ""),
    ("f_broken", "'=1+1.jpg", "unreadable", ""),
    ("h_collins", "collins.jpg", "duplicate_face", "g_collins"),
}


def _enrolled(kiosk: Kiosk) -> dict[str, list[tuple[str | None, bytes]]]:
    """Who is enrolled, from which photos, with which embeddings, in the order they are stored."""
    with Store.open(kiosk.store, keys=KeyFile(kiosk.folder / "kiosk.db.key")) as store:
        return {
            subject.id: [
                (info.source_sha256, store.embedding_bytes(info.id)) for info in store.template_infos(subject.id)
            ]
            for subject in store.subjects()
        }


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest, people: Path) -> Kiosk:
    kiosk = Kiosk(tmp_path_factory.mktemp("home"), request.config.getoption("--runtime"))
    result = kiosk("enroll", "--from-dir", people, "--report", "report.csv")
    assert result.returncode == 65, result.stderr
    assert result.stdout.splitlines() == [
        "a_biden: enrolled with 1 photo",
        "b_obama: enrolled with 2 photos",
        "g_collins: enrolled with 1 photo",
    ]
    lines = result.stderr.splitlines()
    assert lines[0] == "left out, by reason:"
    assert lines[1] == f"  3  duplicate_face: {REASONS['duplicate_face']}"
    assert lines[-1].startswith("kiosk: 3 people enrolled from 4 new photos; 8 folders or photos could not be used")
    return kiosk


def _rows(report: Path) -> list[dict[str, str]]:
    with report.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_report_has_every_rejected_photo(uninterrupted: Kiosk) -> None:
    rows = _rows(uninterrupted.folder / "report.csv")
    assert tuple(rows[0]) == COLUMNS
    assert {(r["subject_id"], r["photo"], r["reason"], r["enrolled_as"]) for r in rows} == WRONG
    assert all(row["detail"] for row in rows)
    assert (uninterrupted.folder / "report.csv").stat().st_mode & 0o077 == 0, "it says whose photos there are"
    assert not (uninterrupted.folder / "kiosk.db.enrolling").exists()


def _wait(until: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not until():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_interrupted_and_run_again_all_is_as_if_it_never_was(
    kiosk: Kiosk, people: Path, uninterrupted: Kiosk, number: signal.Signals
) -> None:
    arguments = ("enroll", "--from-dir", people, "--report", "report.csv")
    remembered, report = kiosk.folder / "kiosk.db.enrolling", kiosk.folder / "report.csv"
    report.write_text("of an earlier run")
    with (process := kiosk.start(*arguments)) as run:
        assert run.stdout is not None
        assert run.stderr is not None
        while not run.stdout.readline().startswith("b_obama"):
            assert run.poll() is None
        with (kiosk.folder / "kiosk.db.lock").open() as lock:
            # g_collins cannot be committed while we hold it.
            fcntl.flock(lock, fcntl.LOCK_EX)
            _wait(lambda: remembered.read_bytes().count(b"\n") == 5)
            process.send_signal(number)
            if number is signal.SIGKILL:
                process.wait()
        output, errors = run.communicate(timeout=60)
    if number is signal.SIGKILL:
        assert report.read_text() == "of an earlier run"
        assert set(_enrolled(kiosk)) == {"a_biden", "b_obama"}
    else:
        assert process.returncode == (130 if number is signal.SIGINT else -signal.SIGTERM)
        # Who is in hand is finished.
        done = 7 if "g_collins: enrolled" in output else 6
        assert f"interrupted after {done} of 8 people" in errors
        assert {row["subject_id"] for row in _rows(report)} == {row[0] for row in WRONG} - {"h_collins"}
    result = kiosk(*arguments, "--json")
    assert result.returncode == 65
    assert_one_line_error(result.stderr)
    document = json.loads(result.stdout)
    assert document["complete"] is True
    assert not document["subjects"][0]["photos"], "looked at again"
    assert _enrolled(kiosk) == _enrolled(uninterrupted)
    assert report.read_bytes() == (uninterrupted.folder / "report.csv").read_bytes()
    assert not remembered.exists()


class _Looking:
    """Notes whose photos are looked at; presses Ctrl-C at one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: list[str] = []
        self.until: str | None = None
        embed = enroll.Enroller.embed

        def look(enroller: enroll.Enroller, photo: Photo) -> EnrolledPhoto:
            if photo.path.parent.name == self.until:
                raise KeyboardInterrupt
            self.seen.append(photo.path.parent.name)
            return embed(enroller, photo)

        monkeypatch.setattr(enroll.Enroller, "embed", look)

    def run(self, kiosk: Kiosk, people: Path, *options: str, until: str | None = None) -> tuple[int, list[str]]:
        self.seen, self.until = [], until
        return run_in_process("enroll", "--from-dir", str(people), "--config", str(kiosk.config), *options), self.seen


@pytest.fixture
def looking(monkeypatch: pytest.MonkeyPatch) -> _Looking:
    return _Looking(monkeypatch)


def test_nobody_is_looked_at_twice_until_the_end_is_reached(kiosk: Kiosk, people: Path, looking: _Looking) -> None:
    first = ["a_biden", "a_biden", "b_obama", "b_obama", "c_biden", "d_obama", "e_nobody"]
    assert looking.run(kiosk, people, until="g_collins") == (130, first)
    assert looking.run(kiosk, people, until="h_collins") == (130, ["g_collins"])
    assert looking.run(kiosk, people) == (65, ["h_collins"])
    # The next run is a new one: what was rejected is tried again.
    assert looking.run(kiosk, people) == (65, ["a_biden", "c_biden", "d_obama", "e_nobody", "h_collins"])


def test_what_was_rejected_is_looked_at_again_when_anything_about_it_has_changed(
    kiosk: Kiosk, people: Path, looking: _Looking, tmp_path: Path, samples: Path
) -> None:
    folder = tmp_path / "people"
    shutil.copytree(people, folder)
    looking.run(kiosk, folder, until="g_collins")
    shutil.copy(samples / "collins.jpg", folder / "e_nobody" / "wall.png")
    assert run_in_process("subjects", "remove", "a_biden", "--yes", "--config", str(kiosk.config)) == 0
    shutil.rmtree(folder / "a_biden")
    assert looking.run(kiosk, folder, until="f_broken") == (65, ["c_biden", "e_nobody", "g_collins", "h_collins"])
    assert set(_enrolled(kiosk)) == {"b_obama", "c_biden", "e_nobody"}


def test_other_limits_are_another_verdict(kiosk: Kiosk, people: Path, looking: _Looking) -> None:
    looking.run(kiosk, people, until="b_obama")
    kiosk.configure(face={"min_sharpness": 1})
    assert looking.run(kiosk, people, until="b_obama") == (130, ["a_biden"])


def test_consent_is_written_once(kiosk: Kiosk, people: Path, looking: _Looking) -> None:
    kiosk.configure(privacy={"require_consent": True})
    assert looking.run(kiosk, people) == (65, [])
    consent = ("--consent", "F-1", "--consent-date", "2026-01-02")
    assert looking.run(kiosk, people, *consent, until="g_collins")[0] == 130
    with Store.open(kiosk.store) as store:
        before = store.audit_rows()
    assert looking.run(kiosk, people, *consent, until="g_collins")[1] == []
    with Store.open(kiosk.store) as store:
        assert store.audit_rows() == before
        assert {subject.consent_reference for subject in store.subjects()} == {"F-1"}


def test_ctrl_c_between_two_photos_of_a_person_commits_neither(
    kiosk: Kiosk, people: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    embed = enroll.Enroller.embed

    def interrupt(enroller: enroll.Enroller, photo: Photo) -> EnrolledPhoto:
        signal.raise_signal(signal.SIGINT)
        return embed(enroller, photo)

    monkeypatch.setattr(enroll.Enroller, "embed", interrupt)
    before = signal.getsignal(signal.SIGTERM)
    assert run_in_process("enroll", "--from-dir", str(people), "--config", str(kiosk.config), "--json") == 130
    document = json.loads(capsys.readouterr().out)
    assert (document["complete"], document["subjects"]) == (False, [])
    assert [failure["reason"] for failure in document["failures"]] == ["no_folder", "bad_subject_id"]
    assert _enrolled(kiosk) == {}
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_gallery_that_has_grown_lets_nobody_in_who_was_refused(store: Store) -> None:
    for subject_id, embedding in {"a": [1, 0, 0], "c": [0, 1, 0]}.items():
        store.enroll(SubjectId(subject_id), [NewTemplate(MODEL, np.array(embedding, np.float32))])
    pipeline: Any = SimpleNamespace(
        embedder=SimpleNamespace(model_id=MODEL),
        same_face_score=-1.0,
        duplicate_rule=lambda gallery: DecisionRule([0.0, 0.7, 0.9][len(gallery)], 0.0),
    )
    photo = EnrolledPhoto("b.jpg", Quality(100, 100, 120, 0), np.array([0.8, 0, 0.6], np.float32))
    enroller = enroll.Enroller(pipeline, store, force=False)
    enroller.check(SubjectId("b"), [photo])
    with pytest.raises(RejectedPhoto, match=r"already enrolled as a \(score 0\.80\)"):
        enroller.check(SubjectId("b"), [photo], {SubjectId("c"), SubjectId("d")})


# --- what is remembered


def _rejection(detail: str = "no face found") -> Rejection:
    return Rejection("E1", ("a.jpg",), "no_face", detail)


def test_a_record_that_a_power_cut_left_unfinished_is_dropped(path: Path) -> None:
    with Memory(path, "conditions") as memory:
        memory.note("1", [_rejection()])
        memory.note("2", [_rejection()])
    whole = memory.path.read_bytes()
    memory.path.write_bytes(whole[:-7])
    with Memory(path, "conditions") as memory:
        assert memory.recall("1") == [_rejection()]
        assert memory.recall("2") is None
        memory.note("2", [_rejection()])
    assert memory.path.read_bytes() == whole
    assert memory.path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "content", [b"\0" * 4096, b"[]\n", b'{"key": "1", "rejections": [{"folder": 1}]}\n', b"\xff\n"]
)
def test_what_is_no_record_is_none(path: Path, content: bytes) -> None:
    Path(f"{path}.enrolling").write_bytes(content)
    with Memory(path, "conditions") as memory:
        assert memory.recall("1") is None
        memory.note("1", [_rejection()])
    with Memory(path, "conditions") as memory:
        assert memory.recall("1") == [_rejection()]


def test_one_run_at_a_time(path: Path) -> None:
    with Memory(path, "conditions"), pytest.raises(UnavailableError, match="is under way"):
        Memory(path, "conditions")
    with Memory(path, "conditions") as memory:
        assert memory.key("E1") != memory.key("E2")
        assert memory.key("E1") == memory.key("E1")


# --- the report


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", " =1", "\t=1", "\r=1"])
def test_no_cell_is_a_formula(tmp_path: Path, text: str) -> None:
    report = Report(tmp_path / "r.csv")
    report.write([Rejection(text, (text,), "no_face", text)], ALL)
    (row,) = _rows(report.path)
    assert not any(value.lstrip().startswith(("=", "+", "-", "@")) for value in row.values())
    assert row["photo"].lstrip("'") == text.replace("\t", "\\t").replace("\r", "\\r")


def test_a_row_is_a_line_whatever_a_name_contains(tmp_path: Path) -> None:
    report = Report(tmp_path / "r.csv")
    report.write([Rejection("E1", ('a"\n,b\udcff.jpg',), "no_face", "ü")], ALL)
    assert len(report.path.read_text(encoding="utf-8").splitlines()) == 2
    assert _rows(report.path)[0]["photo"] == 'a"\\n,b\\udcff.jpg'


class _Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.cells: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        if self.tags[-1:] == ["td"]:
            self.cells.append(data.strip())


def test_the_page_is_one_file_with_escaped_text(tmp_path: Path) -> None:
    report = Report(tmp_path / "r.html")
    nasty = "<script>alert(1)</script>&<img src=//example.com/x>"
    report.write([Rejection("E1", (nasty, "b.jpg"), "duplicate_face", nasty, "E0")], Totals(3, 2, 5, 3))
    page = _Page(report.path.read_text(encoding="utf-8"))
    assert page.cells.count(nasty) == 3
    assert ("lang", "en") in page.attributes
    assert page.tags.count("caption") == 2
    assert page.tags.count("th") == page.attributes.count(("scope", "col")) == 8
    assert not {"script", "img", "link", "iframe"} & set(page.tags)
    assert not [value for name, value in page.attributes if name in {"src", "href"}]
    assert "Interrupted after 2 of 3 people" in report.path.read_text(encoding="utf-8")
    report.write([], ALL)
    assert "Interrupted" not in report.path.read_text(encoding="utf-8")


def test_a_report_that_cannot_be_written_is_told_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\.csv or \.html"):
        Report(tmp_path / "r.pdf")
    with pytest.raises(OutputError, match="cannot be written"):
        Report(tmp_path / "nowhere" / "r.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(OutputError, match="is a folder"):
        Report(tmp_path / "folder.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["folder.csv"]


def test_the_old_report_stays_when_the_new_one_cannot_be_written(tmp_path: Path) -> None:
    report = Report(tmp_path / "r.csv")
    report.write([_rejection()], ALL)
    old = report.path.read_bytes()
    (tmp_path / ".r.csv.part").mkdir()
    with pytest.raises(OutputError):
        report.write([], ALL)
    assert report.path.read_bytes() == old


def test_the_most_frequent_reason_comes_first() -> None:
    several = Rejection("E2", ("a.jpg", "b.jpg"), "photos_differ", "differ", whole=True)
    lines = summarize([Rejection("x", (), "no_photos", "none"), _rejection(), several])
    assert [line.split()[:2] for line in lines] == [["2", "photos_differ:"], ["1", "no_photos:"], ["1", "no_face:"]]
