"""``kiosk why`` on decisions of the daemon's making, and on a store of the version before."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from command_line import Kiosk
from runner import assert_one_line_error, dump, enroll_people
from sqlite_utils import Database
from test_evidence import OLD

from kiosk import migrations
from kiosk.biometrics import Decision, ModelId, Reason, Verdict
from kiosk.demo import write_scenes
from kiosk.events import Moment, Origin, rejected_event
from kiosk.opencv import cv2
from kiosk.store import Store

pytestmark = pytest.mark.stories

OLD_ID = "01a20c0a-a74d-742b-b958-34127323928c"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest, samples: Path) -> Kiosk:
    """Four runs of ``kiosk run`` on the demo's clip: as it is, and so that nobody is sharp, alone or large enough."""
    folder = tmp_path_factory.mktemp("home")
    kiosk = enroll_people(Kiosk(folder, request.config.getoption("--runtime")), samples)
    write_scenes(folder / "clip.avi")
    kiosk.configure(camera={"source": str(folder / "clip.avi"), "pace": "fast"}, device={"timezone": "Asia/Seoul"})
    for env in (
        {},
        {"KIOSK_FACE__MIN_SHARPNESS": "100"},
        {"KIOSK_MATCH__MARGIN": "2"},
        {"KIOSK_FACE__MIN_EYE_DISTANCE_PX": "300"},
    ):
        result = kiosk("run", env=env)
        assert result.returncode == 0, result.stderr
    return kiosk


@pytest.fixture(scope="module")
def rejected(home: Kiosk) -> dict[str, str]:
    """The id of the first rejected decision by reason."""
    events = json.loads(home("events", "--rejected", "--json").stdout)["events"]
    return {event["reason"]: event["event_id"] for event in reversed(events)}


def _why(kiosk: Kiosk, *arguments: str | Path) -> str:
    result = kiosk("why", *arguments)
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


def _document(kiosk: Kiosk, *arguments: str | Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(_why(kiosk, *arguments, "--json"))
    return document


def test_an_accepted_decision(home: Kiosk) -> None:
    before = dump(home.store)
    document = _document(home, "1")
    assert (document["decision"], document["reason"], document["subject_id"]) == ("identified", "match", "obama")
    assert document["score"] > document["threshold"]
    assert document["threshold_source"].startswith("threshold 0.")
    assert "FPIR 0.001 with 2 subjects" in document["threshold_source"]
    assert document["margin"] > document["margin_needed"] > 0
    assert document["gallery_size"] == 2
    assert document["pad"] == {"checked": False, "passed": None, "score": None}
    assert [candidate["subject_id"] for candidate in document["candidates"]] == ["obama", "biden"]
    assert document["frames"] == len(document["frame_evidence"]) == 3
    for frame, offset_s in zip(document["frame_evidence"], (0, 0.1, 0.2), strict=True):
        assert frame["offset_s"] == pytest.approx(offset_s, abs=0.01)
        assert frame["weight"] == pytest.approx(1 / 3, abs=0.05)
        assert [candidate["subject_id"] for candidate in frame["candidates"]] == ["obama", "biden"]
        assert frame["quality"]["size_px"] > 60
    assert document["advice"] is None
    assert dump(home.store) == before


def test_an_accepted_decision_in_words(home: Kiosk) -> None:
    lines = _why(home, "1").splitlines()
    assert lines[0] == "check_in of obama (seq 1), hq/door-1"
    assert "Asia/Seoul" in lines[1]
    assert lines[3].startswith("accepted: obama scored 0.")
    assert "led the next subject biden by 0." in lines[3]
    assert "what to do" not in "\n".join(lines)
    (threshold,) = (line for line in lines if line.startswith("threshold "))
    needed = _document(home, "1")["threshold"]
    assert threshold.split()[1] == f"{needed:.3f}"
    assert "FPIR 0.001 with 2 subjects" in threshold
    table = lines[lines.index("frames: 3 fused") + 1 :]
    assert table[0].split() == ["time", "weight", "first", "second", "quality"]
    assert len(table) == 4
    assert all("obama" in line and "biden" in line and "size" in line for line in table[1:])


@pytest.mark.parametrize(
    ("kind", "words", "to_do"),
    [
        (("unknown", "unknown", "unknown"), "below the threshold", "photos"),
        (("rejected", "blurred", "quality"), "too blurred (sharpness ", "face.min_sharpness"),
        (("rejected", "ambiguous", "ambiguous"), "but led the next subject", "more photos of both"),
        (("rejected", "too_small", "quality"), "too small (eye distance ", "face.min_eye_distance_px"),
    ],
)
def test_rejected_decisions(
    home: Kiosk, rejected: dict[str, str], kind: tuple[str, str, str], words: str, to_do: str
) -> None:
    _, reason, event_type = kind
    document = _document(home, rejected[reason])
    assert (document["event_id"], document["seq"], document["subject_id"]) == (rejected[reason], None, None)
    assert (document["decision"], document["reason"], document["event_type"]) == kind
    assert words in document["explanation"]
    assert to_do in document["advice"]
    assert document["quality"]["size_px"] > 60
    # The demo's ten frames a second over the two seconds a face that is not accepted is waited for.
    assert len(document["frame_evidence"]) == (0 if event_type == "quality" else document["frames"])
    assert document["frames"] in ({0} if event_type == "quality" else {20, 21})
    text = _why(home, rejected[reason])
    assert document["explanation"] in text
    assert document["advice"] in text


@pytest.mark.parametrize("spelled", [lambda i: i, lambda i: i.upper(), lambda i: i[:20]])
def test_an_event_is_found_by_its_id_or_the_beginning_of_it(
    home: Kiosk, rejected: dict[str, str], spelled: Any
) -> None:
    assert _document(home, spelled(rejected["unknown"]))["event_id"] == rejected["unknown"]
    check_in = _document(home, "2")
    assert _document(home, spelled(check_in["event_id"])) == check_in


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ("99", "no event '99'"),
        ("999999999999999999", "no event"),
        ("9" * 30, "no event"),
        ("9" * 40, "neither a seq nor an event id"),
        ("0", "neither a seq nor an event id"),
        ("01998899-1122", "no event '01998899-1122'"),
        ("x' OR '1'='1", "neither a seq nor an event id"),
        ("%", "neither a seq nor an event id"),
    ],
)
def test_an_id_that_is_not_there(home: Kiosk, wanted: str, words: str) -> None:
    result = home("why", wanted)
    assert (result.returncode, result.stdout) == (65, "")
    line = assert_one_line_error(result.stderr)
    assert words in line
    assert "`kiosk events --rejected`" in line


def test_a_beginning_that_is_too_short_or_of_several(kiosk: Kiosk) -> None:
    _store_of_the_version_before(kiosk.store, OLD_ID, "01a20c0a-abd0-7aef-8dbe-fd75c5d8095e")
    Store.open(kiosk.store).close()
    for beginning, words in ((OLD_ID[:7], "8 or more"), (OLD_ID[:8], "the beginning of 2 events' ids")):
        result = kiosk("why", beginning)
        assert result.returncode == 65
        assert words in assert_one_line_error(result.stderr)
    assert _document(kiosk, OLD_ID[:11])["seq"] == 1


def test_plot(home: Kiosk, rejected: dict[str, str], tmp_path: Path) -> None:
    for wanted in ("1", rejected["unknown"], rejected["blurred"]):
        plot = tmp_path / f"{wanted}.png"
        _why(home, wanted, "--plot", plot)
        picture = cv2.imread(str(plot))
        assert picture is not None
        assert picture.std() > 20
        assert plot.stat().st_mode & 0o777 == 0o600


def test_a_plot_that_cannot_be_written(home: Kiosk, tmp_path: Path) -> None:
    result = home("why", "1", "--plot", tmp_path / "nowhere" / "out.png")
    assert result.returncode == 74
    assert_one_line_error(result.stderr)
    assert home("why", "1", "--plot", tmp_path / "out.gif").returncode == 64


def _store_of_the_version_before(path: Path, *event_ids: str) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    database = Database(connection)
    migrations.migrate(database, path, migrations.STEPS[:1])
    for event_id in event_ids:
        database.execute(
            "INSERT INTO attendance (event_id, event_type, subject_id, occurred_at, tz, clock_synchronized, boot_id,"
            " boottime_ms, site, device, evidence)"
            " VALUES (?, 'check_in', 'obama', '2026-11-24T05:32:34.509Z', 'UTC', 1, 'boot', 1, 'hq', 'door-1', ?)",
            [event_id, json.dumps(OLD)],
        )
    connection.close()


def test_a_store_of_the_version_before(kiosk: Kiosk, tmp_path: Path) -> None:
    _store_of_the_version_before(kiosk.store, OLD_ID)
    result = kiosk("why", "1")
    assert result.returncode == 73
    told = assert_one_line_error(result.stderr)
    assert "`kiosk run` brings it up to date, and so does `kiosk outbox retry`" in told
    assert kiosk("outbox", "retry").returncode == 0
    document = _document(kiosk, OLD_ID)
    assert (document["score"], document["threshold"], document["margin"]) == (0.9615, 0.937, 0.1278)
    assert (document["margin_needed"], document["threshold_source"]) == (None, None)
    assert [frame["candidates"] for frame in document["frame_evidence"]] == [
        [{"subject_id": "obama", "score": score}] for score in (0.9483, 0.9631, 0.9623)
    ]
    lines = _why(kiosk, "1", "--plot", tmp_path / "old.png").splitlines()
    assert "accepted: obama scored 0.962" in lines[3]
    assert "quality     size 81 px, sharpness 72, brightness 74, yaw -0.22 (last frame)" in lines
    assert lines[-1].split() == ["-", "-", "0.962", "obama", "-", "-"]
    assert cv2.imread(str(tmp_path / "old.png")).std() > 10  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("threshold 0.620 (match.threshold)", "0.620 (match.threshold)"),
        (
            "threshold 0.450 and 0.6 of the mean score of the next 10 (FPIR 0.001)",
            "0.620 for this face: 0.450 and 0.6 of the mean score of the next 10 (FPIR 0.001)",
        ),
        (None, "0.620 (why not recorded)"),
    ],
)
def test_the_threshold_is_shown_with_what_it_follows_from(kiosk: Kiosk, source: str | None, shown: str) -> None:
    decision = Decision(Verdict.UNKNOWN, Reason.EMPTY_GALLERY, 0.62)
    moment, origin = Moment(1_772_438_293_412, True, 1000, "boot"), Origin("hq", "door-1", "UTC")
    event = rejected_event(decision, moment=moment, origin=origin)
    with Store.open(kiosk.store) as store:
        store.record_rejection(
            decision,
            event,
            moment=moment,
            origin=origin,
            model_id=ModelId("m@1"),
            gallery_size=0,
            threshold_source=source,
        )
    assert f"threshold   {shown}" in _why(kiosk, event.event_id).splitlines()


def test_an_erased_subject_is_no_longer_named(
    home: Kiosk, rejected: dict[str, str], tmp_path: Path, runtime: Any
) -> None:
    copy = Kiosk(tmp_path, runtime)
    Store.open(home.store).close()  # everything in one file
    copy.store.write_bytes(home.store.read_bytes())
    assert "biden" in _why(copy, "1") + _why(copy, rejected["ambiguous"])
    assert copy("subjects", "remove", "biden", "--yes").returncode == 0
    for wanted in ("1", rejected["unknown"], rejected["ambiguous"]):
        text = _why(copy, wanted, "--plot", tmp_path / "erased.png")
        assert "biden" not in text
        assert "(erased)" in text
        assert "biden" not in _why(copy, wanted, "--json")
    # His own check-in stays under the bare id.
    assert _document(copy, "2")["subject_id"] == "biden"
