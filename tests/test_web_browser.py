"""The administration page as people use it: in Chromium, with a kiosk that runs, and with the mistakes people make."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from broker import Mosquitto, Subscriber, free_port, wait_for
from browser import LAPTOP, PHONE, open_browser, open_page
from command_line import Kiosk
from fuzz.mutation import bomb_png
from playwright.sync_api import Browser, Page, expect
from test_web import Browser as Client
from test_web import answers, stop

from kiosk.demo import write_scenes

pytestmark = pytest.mark.stories

PAGES = ("Live", "People", "Attendance", "Rejected", "Health")


@dataclass
class Door:
    """A kiosk that watches the demo's clip again and again, its page, and who reads its events."""

    kiosk: Kiosk
    port: int
    events: Subscriber

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Door]:
    folder = tmp_path_factory.mktemp("door")
    write_scenes(folder / "clip.avi")
    kiosk = Kiosk(folder, request.config.getoption("--runtime"))
    port = free_port()
    with Mosquitto(folder) as mosquitto, Subscriber(mosquitto.port, "kiosk/v1/#") as events:
        kiosk.configure(
            camera={"source": str(folder / "clip.avi"), "loop": True},
            match={"refractory_s": 2},
            mqtt={"enabled": True, "port": mosquitto.port},
            web={"enabled": True, "port": port},
        )
        daemon = kiosk.start("run", log=folder / "log")
        try:
            wait_for(lambda: answers(port), 30, what="the page")
            yield Door(kiosk, port, events)
        finally:
            daemon.terminate()
            assert daemon.wait(20) == 0, (folder / "log").read_text(encoding="utf-8")
            assert "Traceback" not in (folder / "log").read_text(encoding="utf-8")


@pytest.fixture
def page(browser: Browser, door: Door) -> Iterator[Page]:
    page = open_page(browser)
    page.goto(door.url)
    yield page
    page.context.close()


def go(page: Page, name: str) -> None:
    page.get_by_role("link", name=name, exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_contain_text(name)


def enroll_from_photos(page: Page, subject_id: str, name: str, *photos: Path) -> None:
    go(page, "People")
    page.get_by_role("button", name="Enroll a person").click()
    page.get_by_label("Id (letters").fill(subject_id)
    page.get_by_label("Name", exact=True).fill(name)
    page.get_by_role("button", name="From photos").click()
    page.get_by_label(re.compile("Photos that show")).set_input_files(list(photos))
    expect(page.get_by_text("✓")).to_have_count(len(photos))
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("status")).to_contain_text(f"{subject_id}: enrolled with {len(photos)} photo")


def test_a_day_at_the_door(page: Page, door: Door, samples: Path) -> None:
    """Two people are enrolled in the page, recognized in the preview, found in the log; one is removed, forgotten."""
    enroll_from_photos(page, "E1001", "Barack Obama", samples / "obama.jpg")
    enroll_from_photos(page, "E1002", "Joe Biden", samples / "biden_portrait.jpg")
    expect(page.get_by_role("row", name=re.compile("Joe Biden E1002 1"))).to_be_visible()

    page.get_by_role("button", name="Look for poor templates").click()
    expect(page.get_by_role("row", name=re.compile("better E1001"))).not_to_have_count(0)

    go(page, "Live")
    recorded = page.get_by_role("list").last
    expect(recorded).to_contain_text("check in Barack Obama (E1001)", timeout=30_000)
    expect(recorded).to_contain_text("check in Joe Biden (E1002)", timeout=30_000)
    expect(recorded).to_contain_text("no check-in: unknown", timeout=30_000)
    expect(page.get_by_role("list", name="Faces in the picture")).to_contain_text(
        re.compile(r"E1001\), score 0\.\d\d of 0\.\d\d needed"), timeout=30_000
    )
    assert is_a_picture(page)

    go(page, "Attendance")
    expect(page.get_by_role("row", name=re.compile("check in Joe Biden"))).not_to_have_count(0)
    page.get_by_role("button", name=re.compile("Why: check in of E1002")).first.click()
    expect(page.get_by_role("dialog")).to_contain_text("Candidates")
    page.get_by_role("button", name="Close").click()
    with page.expect_download() as download:
        page.get_by_role("link", name="Export CSV").click()
    assert "E1002" in download.value.path().read_text(encoding="utf-8")
    correct_by_hand(page)
    go(page, "Rejected")
    expect(page.get_by_role("row", name=re.compile("unknown"))).not_to_have_count(0)

    go(page, "People")
    page.get_by_role("button", name="Joe Biden").click()
    page.get_by_role("button", name="Remove …").click()
    page.get_by_label("Type E1002 to confirm").fill("E1001")
    page.get_by_role("button", name="Erase for good").click()
    expect(page.get_by_role("alert")).to_contain_text("type the id to confirm")
    page.get_by_label("Type E1002 to confirm").fill("E1002")
    page.get_by_role("button", name="Erase for good").click()
    expect(page.get_by_role("dialog")).to_contain_text("E1002 erased at")
    page.get_by_role("button", name="Close").click()
    expect(page.get_by_role("row", name=re.compile("E1002"))).to_have_count(0)
    time.sleep(2)  # what was decided before may still be on its way
    before = len(check_ins(door, "E1002"))
    known = len(check_ins(door, "E1001"))
    wait_for(lambda: len(check_ins(door, "E1001")) >= known + 3, 60, what="the clip once more")
    assert len(check_ins(door, "E1002")) == before, "the running kiosk recognizes nobody who was removed"
    assert "E1002" not in door.kiosk("subjects", "list").stdout


def correct_by_hand(page: Page) -> None:
    """Add what the kiosk did not see, and void it again: both stay in the list."""
    page.get_by_role("button", name="Add an event").click()
    page.get_by_label("Id of the person", exact=True).fill("E1002")
    page.get_by_label("What").select_option("check_out")
    page.get_by_label(re.compile("^When")).fill("2020-01-01T08:00")
    page.get_by_label("Why, in a few words").fill("left by the back door")
    page.get_by_role("button", name="Add", exact=True).click()
    expect(page.get_by_role("alert")).to_be_visible()
    page.get_by_label(re.compile("^When")).fill(f"{datetime.now(UTC):%Y-%m-%dT00:01}")
    page.get_by_role("button", name="Add", exact=True).click()
    added = page.get_by_role("row", name=re.compile("check out Joe Biden"))
    expect(added).to_contain_text("added by hand; left by the back door")
    added.get_by_role("button", name=re.compile("Void")).click()
    page.get_by_label("Why, in a few words").fill("wrong day")
    page.get_by_role("button", name="Void", exact=True).last.click()
    expect(page.get_by_role("row", name=re.compile("void: see event"))).to_be_visible()
    page.get_by_role("row", name=re.compile("check out Joe Biden")).get_by_role("button", name="Why").click()
    expect(page.get_by_role("dialog")).to_contain_text("wrong day")
    page.get_by_role("button", name="Close").click()


def check_ins(door: Door, subject_id: str) -> list[object]:
    return [
        event
        for event in (message.json() for message in door.events.on("event/attendance"))
        if event["event_type"] == "check_in" and event["subject"]["id"] == subject_id
    ]


def is_a_picture(page: Page) -> bool:
    """Whether the canvas shows more than one colour."""
    return bool(
        page.evaluate(
            "() => { const c = document.querySelector('canvas'); const d = c.getContext('2d')"
            ".getImageData(0, 0, c.width, c.height).data; return new Set(d.subarray(0, 40000)).size > 10; }"
        )
    )


def test_names_are_text_whatever_they_hold(page: Page, samples: Path) -> None:
    name = '<img src=x onerror="document.title=1"> & "O\'Brien"'
    enroll_from_photos(page, "E66", name, samples / "collins.jpg")
    page.get_by_role("button", name=name).click()
    expect(page.get_by_role("heading", name=name)).to_be_visible()
    page.get_by_label("Name").fill("Susan Collins")
    page.get_by_role("button", name="Rename").click()
    expect(page.get_by_role("row", name=re.compile("Susan Collins E66"))).to_be_visible()
    page.get_by_label("Search").fill("nobody of this name")
    expect(page.get_by_role("row", name=re.compile("E66"))).to_have_count(0)


def test_bad_photos_are_told_and_leave_nothing(page: Page, door: Door, tmp_path: Path) -> None:
    go(page, "People")
    page.get_by_role("button", name="Enroll a person").click()
    page.get_by_label("Id (letters").fill("E5")
    page.get_by_role("button", name="From photos").click()
    (tmp_path / "huge.png").write_bytes(bomb_png(20_000, 20_000))
    (tmp_path / "archive.jpg").write_bytes(b"PK\x03\x04" + b"\0" * 500)
    (tmp_path / "too-long.jpg").write_bytes(b"\xff\xd8" + b"\0" * (33 << 20))
    (tmp_path / "empty.jpg").write_bytes(b"")
    files = page.get_by_label(re.compile("Photos that show"))
    for name, said in {
        "huge.png": "huge.png: 20000 × 20000",
        "archive.jpg": "archive.jpg: not a photo that can be read",
        "too-long.jpg": "larger than",
        "empty.jpg": "empty.jpg: the file is empty",
    }.items():
        files.set_input_files(tmp_path / name)
        expect(page.get_by_role("dialog").get_by_role("listitem").last).to_contain_text(said)
    expect(page.get_by_role("button", name="Save")).to_be_disabled()
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("dialog")).to_have_count(0)
    assert "E5" not in door.kiosk("subjects", "list").stdout
    assert door.kiosk("check").stdout.count("FAIL") == 0


def test_two_windows_do_not_enroll_the_same_id(browser: Browser, door: Door, page: Page) -> None:
    other = open_page(browser)
    other.goto(door.url)
    for window in (page, other):
        go(window, "People")
        window.get_by_role("button", name="Enroll a person").click()
        window.get_by_label("Id (letters").fill("E7")
        window.get_by_role("button", name="From photos").click()
    expect(other.get_by_role("alert")).to_contain_text("E7: is being enrolled in another window")
    page.get_by_role("button", name="Cancel").click()
    other.context.close()


@pytest.mark.parametrize("source", ["From photos", "With the kiosk's camera"])
def test_who_reloads_the_page_begins_again_at_once(page: Page, door: Door, source: str) -> None:
    for _ in range(2):
        go(page, "People")
        page.get_by_role("button", name="Enroll a person").click()
        page.get_by_label("Id (letters").fill("E9")
        page.get_by_role("button", name=source).click()
        expect(page.get_by_role("button", name="Save")).to_be_visible()
        page.reload()
    status, answer, _ = Client(door.port)("POST", "/api/enrollments", {"subject_id": "E9", "source": "photos"})
    assert status == 200, answer
    Client(door.port)("DELETE", f"/api/enrollments/{answer['key']}")


def test_the_camera_gives_hints(page: Page, door: Door) -> None:
    """The clip's people walk by: hints come, nobody is complete, and what was begun is forgotten."""
    go(page, "People")
    page.get_by_role("button", name="Enroll a person").click()
    page.get_by_label("Id (letters").fill("E8")
    page.get_by_role("button", name="With the kiosk's camera").click()
    hint = page.locator(".hint")
    expect(hint).to_contain_text(re.compile("stand before the camera|come closer|hold still"), timeout=30_000)
    first = hint.text_content()
    expect(hint).not_to_have_text(first or "", timeout=30_000)
    assert is_a_picture(page)
    expect(page.get_by_role("button", name="Save")).to_be_disabled()
    page.get_by_role("button", name="Cancel").click()
    assert "E8" not in door.kiosk("subjects", "list").stdout


@pytest.mark.parametrize("size", [LAPTOP, PHONE], ids=["laptop", "phone"])
def test_everybody_can_use_it(browser: Browser, door: Door, size: tuple[int, int]) -> None:
    """No violation that axe-core knows of, on every page and in a dialog; nothing wider than the screen."""
    page = open_page(browser, size)
    page.goto(door.url)
    for name in PAGES:
        go(page, name)
        assert page.evaluate("scrollY") == 0, "the menu stays in view"
        page.wait_for_timeout(600)
        assert page.evaluate("document.documentElement.scrollWidth") <= size[0], name
        assert axe_violations(page) == [], name
    go(page, "People")
    page.get_by_role("button", name="Enroll a person").click()
    expect(page.get_by_role("dialog")).to_be_visible()
    assert axe_violations(page) == []
    page.context.close()


def axe_violations(page: Page) -> list[str]:
    found = Axe().run(page).response["violations"]
    return [f"{one['impact']} {one['id']}: {one['nodes'][0]['html'][:200]}" for one in found]


def test_the_keyboard_is_enough(page: Page) -> None:
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="To the content")).to_be_focused()
    for _ in range(2):
        page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Attendance")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Attendance")
    expect(page.get_by_role("main")).to_be_focused()
    go(page, "People")
    # The page moves the focus there once it is drawn: a key pressed before that would miss the button.
    expect(page.get_by_role("main")).to_be_focused()
    page.get_by_role("button", name="Enroll a person").press("Enter")
    expect(page.get_by_label("Id (letters")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)


@pytest.fixture(scope="module")
def office(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest, samples: Path, browser: Browser
) -> Iterator[tuple[Page, Client]]:
    """A page without a running kiosk, in Berlin, with one person."""
    kiosk = Kiosk(tmp_path_factory.mktemp("office"), request.config.getoption("--runtime"))
    assert kiosk("enroll", "E1", "--name", "Obama B.", samples / "obama.jpg").returncode == 0
    port = free_port()
    kiosk.configure(web={"port": port}, device={"timezone": "Europe/Berlin"}, store={"retention_days": 800})
    process = kiosk.start("web")
    page = open_page(browser)
    try:
        wait_for(lambda: answers(port), 20)
        page.goto(f"http://127.0.0.1:{port}/")
        yield page, Client(port)
    finally:
        page.context.close()
        stop(process)


def test_adding_photos_leaves_a_name_that_was_changed_meanwhile(office: tuple[Page, Client], samples: Path) -> None:
    page, client = office
    go(page, "People")
    page.get_by_role("button", name="Obama B.").click()
    page.get_by_role("button", name="Add photos").click()
    assert client("PATCH", "/api/subjects/E1", {"name": "B. Obama"})[0] == 200
    page.get_by_role("button", name="From photos").click()
    page.get_by_label(re.compile("Photos that show")).set_input_files(samples / "obama3.jpg")
    expect(page.get_by_text("✓")).to_be_visible()
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("status")).to_contain_text("E1: added 1 photo")
    known = client("GET", "/api/subjects/E1")[1]
    assert (known["name"], len(known["templates"])) == ("B. Obama", 2)


def test_an_event_of_the_hour_that_comes_twice(office: tuple[Page, Client]) -> None:
    page, client = office
    now = datetime.now(UTC)
    year = now.year if now.month > 10 else now.year - 1
    night = next(day for day in range(31, 24, -1) if date(year, 10, day).weekday() == 6)
    go(page, "Attendance")
    page.get_by_role("button", name="Add an event").click()
    assert axe_violations(page) == []
    page.get_by_label("Id of the person", exact=True).fill("E1")
    page.get_by_label("Why, in a few words").fill("night shift")
    when = page.get_by_label(re.compile("^When"))
    when.fill(f"{year}-10-{night}T02:30")
    page.get_by_role("button", name="Add", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text(f"say which: {year}-10-{night}T02:30+02:00 or")
    when.fill(f"{year}-10-{night}T02:30+01:00")
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_have_count(0)
    (event,) = client("GET", "/api/events")[1]["events"]
    assert event["occurred_at"].startswith(f"{year}-10-{night}T01:30:00")


def test_a_login_in_the_browser(browser: Browser, kiosk: Kiosk, samples: Path) -> None:
    secret = kiosk.folder / "password"
    secret.write_text("correct horse battery", encoding="utf-8")
    secret.chmod(0o600)
    assert kiosk("enroll", "E1", samples / "obama.jpg").returncode == 0
    port = free_port()
    kiosk.configure(web={"port": port, "password_file": str(secret)})
    process = kiosk.start("web")
    wait_for(lambda: answers(port), 20)
    page = open_page(browser)
    try:
        page.goto(f"http://127.0.0.1:{port}/")
        expect(page.get_by_label("Password")).to_be_focused()
        expect(page.get_by_role("navigation")).to_be_hidden()
        assert axe_violations(page) == []
        page.get_by_label("Password").fill("wrong")
        page.get_by_role("button", name="Log in").click()
        expect(page.get_by_role("alert")).to_have_text("wrong password")
        page.get_by_label("Password").fill("correct horse battery")
        page.keyboard.press("Enter")
        go(page, "People")
        expect(page.get_by_role("row", name=re.compile("E1"))).to_be_visible()
        page.get_by_role("button", name="Log out").click()
        expect(page.get_by_label("Password")).to_be_visible()
        assert Client(port)("GET", "/api/subjects")[0] == 401
    finally:
        page.context.close()
        stop(process)
