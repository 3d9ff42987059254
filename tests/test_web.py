"""The administration page's server, as a browser and as an attacker meet it: `kiosk web` in a process of its own."""

from __future__ import annotations

import contextlib
import csv
import http.client
import io
import json
import re
import signal
import socket
import sqlite3
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from broker import free_port, wait_for
from command_line import Kiosk
from runner import assert_one_line_error, copy_store, dump, enroll_people, run_in_process

from kiosk.config import load
from kiosk.errors import KioskError, UnavailableError
from kiosk.guidance import Guide
from kiosk.packing import pack
from kiosk.preview import PreviewClient, socket_path
from kiosk.web.enrollments import _Capture
from kiosk.web.listener import HEAD_TIMEOUT_S
from kiosk.web.sessions import Paused, Sessions

pytestmark = pytest.mark.stories

PASSWORD = "correct horse battery"  # noqa: S105


@dataclass
class Browser:
    """Speaks to the page as a browser on it would; ``headers`` and ``cookie`` may be an attacker's."""

    port: int
    cookie: str | None = None
    tls: ssl.SSLContext | None = None
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def origin(self) -> str:
        return f"{'http' if self.tls is None else 'https'}://127.0.0.1:{self.port}"

    def __call__(
        self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Any, http.client.HTTPMessage]:
        """Status, body (parsed where it is JSON) and headers."""
        if self.tls is None:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        else:
            connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=30, context=self.tls)
        sent = {"Origin": self.origin, **self.headers, **(headers or {})}
        if self.cookie is not None:
            sent["Cookie"] = self.cookie
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        connection.request(method, path, data, {name: value for name, value in sent.items() if value})
        response = connection.getresponse()
        answer = response.read()
        connection.close()
        if response.getheader("Content-Type") == "application/json":
            answer = json.loads(answer)
        return response.status, answer, response.headers

    def log_in(self, password: str) -> int:
        status, _, headers = self("POST", "/api/session", {"password": password})
        if status == 200:
            self.cookie = headers["Set-Cookie"].partition(";")[0]
        return status


def serve(kiosk: Kiosk, **web: object) -> tuple[subprocess.Popen[str], int]:
    port = free_port()
    kiosk.configure(web={"port": port, **web})
    process = kiosk.start("web")
    address = str(web.get("host", "127.0.0.1"))
    wait_for(lambda: answers(port, address) or process.poll() is not None, 20)
    return process, port


def answers(port: int, address: str = "127.0.0.1") -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((address, port)) == 0


def stop(process: subprocess.Popen[str]) -> str:
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=20)
    assert process.returncode == 0, stderr
    assert "Traceback" not in stderr
    return stderr


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest, samples: Path) -> Kiosk:
    return enroll_people(Kiosk(tmp_path_factory.mktemp("home"), request.config.getoption("--runtime")), samples)


@pytest.fixture(scope="module")
def page(home: Kiosk) -> Iterator[Browser]:
    """Without a password, for this machine only."""
    process, port = serve(home)
    yield Browser(port)
    stop(process)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "web.pem", folder / "web.key"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=kiosk", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)],
        check=True, capture_output=True,
    )  # fmt: skip
    key.chmod(0o600)
    return cert, key


@pytest.fixture(scope="module")
def guarded(
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
    home: Kiosk,
    certificate: tuple[Path, Path],
) -> Iterator[Browser]:
    """For other machines, with a password and TLS."""
    kiosk = Kiosk(tmp_path_factory.mktemp("guarded"), request.config.getoption("--runtime"))
    copy_store(home, kiosk)
    secret = kiosk.folder / "password"
    secret.write_text(f"{PASSWORD}\n", encoding="utf-8")
    secret.chmod(0o600)
    cert, key = certificate
    process, port = serve(
        kiosk,
        host="0.0.0.0",  # noqa: S104
        password_file=str(secret),
        tls={"cert_file": str(cert), "key_file": str(key)},
    )
    yield Browser(port, tls=ssl.create_default_context(cafile=str(cert)))
    assert PASSWORD not in stop(process)


# What is served


def test_people_are_listed_and_found(page: Browser) -> None:
    status, everybody, _ = page("GET", "/api/subjects")
    assert status == 200
    assert [(one["subject_id"], one["name"]) for one in everybody["subjects"]] == [
        ("biden", "조 바이든"),
        ("obama", "Barack Obama"),
    ]
    _, found, _ = page("GET", "/api/subjects?search=BARACK")
    assert [one["subject_id"] for one in found["subjects"]] == ["obama"]
    assert (found["found"], found["total"]) == (1, 2)
    status, one, _ = page("GET", "/api/subjects/obama")
    assert status == 200
    assert one["templates"][0]["quality"]["eye_distance_px"] > 20


def test_everything_the_page_needs_comes_from_here_and_is_small(page: Browser) -> None:
    _, index, _ = page("GET", "/")
    size, queue, seen = 0, ["", *re.findall(rb'(?:href|src)="([^"#:]+)"', index)], set()
    while queue:
        name = queue.pop()
        name = name.decode() if isinstance(name, bytes) else name
        if name in seen:
            continue
        seen.add(name)
        status, content, headers = page("GET", f"/{name}")
        assert status == 200, name
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        size += len(content)
        queue += re.findall(rb'from "\./([^"]+)"', content)
        # Nothing is fetched from anywhere else; the SVG name space is a name.
        assert not re.search(rb"https?://(?!www\.w3\.org/2000/svg)", content), name
    assert {"app.js", "live.js", "people.js", "attendance.js", "health.js", "enroll.js", "style.css"} <= seen
    assert size <= 100 * 1024


def test_a_name_is_changed(page: Browser, home: Kiosk) -> None:
    status, answer, _ = page("PATCH", "/api/subjects/biden", {"name": "Joe <b>Biden</b>"})
    assert (status, answer["name"]) == (200, "Joe <b>Biden</b>")
    assert page("PATCH", "/api/subjects/biden", {"name": "조 바이든"})[0] == 200
    assert "조 바이든" in home("subjects", "list").stdout


def test_without_a_running_kiosk_the_rest_works(page: Browser) -> None:
    status, answer, _ = page("GET", "/api/live")
    assert status == 503
    assert "no kiosk runs there" in answer["error"]
    status, health, _ = page("GET", "/api/health")
    assert (status, health["running"]) == (200, False)
    status, log, headers = page("GET", "/api/events.csv?since=2026-01-01&until=2026-12-31")
    assert status == 200
    assert log.startswith(b"seq,event_id,event_type,subject_id,occurred_at")
    assert headers["Content-Disposition"] == 'attachment; filename="attendance-door-1-2026-01-01.csv"'
    # Python takes any character between day and time; a header does not.
    _, _, headers = page("GET", "/api/events.csv?since=2026-01-01%ED%95%9C08:00%2B09:00")
    assert headers["Content-Disposition"] == 'attachment; filename="attendance-door-1-2026-01-0108000900.csv"'


# Enrolling


@pytest.fixture(scope="module")
def desk(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest, home: Kiosk
) -> Iterator[tuple[Browser, Kiosk]]:
    """A page whose people may be changed."""
    kiosk = Kiosk(tmp_path_factory.mktemp("desk"), request.config.getoption("--runtime"))
    copy_store(home, kiosk)
    process, port = serve(kiosk)
    yield Browser(port), kiosk
    stop(process)


def begin(page: Browser, subject_id: str, *, source: str = "photos", **more: object) -> str:
    status, begun, _ = page("POST", "/api/enrollments", {"subject_id": subject_id, "source": source, **more})
    assert status == 200, begun
    return str(begun["key"])


def add_photo(page: Browser, key: str, photo: Path) -> tuple[int, Any]:
    return page("POST", f"/api/enrollments/{key}/photos?name={photo.name}", photo.read_bytes())[:2]


def test_only_what_is_finished_makes_a_store(kiosk: Kiosk, samples: Path) -> None:
    kiosk.configure(privacy={"require_consent": True})
    process, port = serve(kiosk)
    page = Browser(port)
    try:
        refused = page("POST", "/api/enrollments", {"subject_id": "E1", "source": "photos"})
        assert refused[0] == 400
        assert "E1: consent is needed" in refused[1]["error"]
        key = begin(page, "E1", consent="folder 7")
        assert add_photo(page, key, samples / "obama.jpg")[0] == 200
        status, answer = add_photo(page, key, samples / "biden_portrait.jpg")
        assert status == 400
        assert answer["error"] == "biden_portrait.jpg: does not show the person of the other photos; leave it out"
        assert not list(kiosk.folder.glob("kiosk.db*"))
        assert page("POST", f"/api/enrollments/{key}/finish")[1]["text"] == "E1: enrolled with 1 photo"
        assert kiosk.store.exists()
        # What is on record counts, and is asked for without the options of the command line.
        page("DELETE", f"/api/enrollments/{begin(page, 'E1', more=True)}")
        refused = page("POST", "/api/enrollments", {"subject_id": "E2", "source": "photos"})
        assert "none that holds is on record" in refused[1]["error"]
        assert "--" not in refused[1]["error"]
    finally:
        stop(process)


def test_what_is_finished_several_times_is_stored_once(desk: tuple[Browser, Kiosk], samples: Path) -> None:
    page, _ = desk
    key = begin(page, "obama", more=True)
    assert add_photo(page, key, samples / "obama2.jpg")[0] == 200
    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(lambda _: page("POST", f"/api/enrollments/{key}/finish")[:2], range(8)))
    assert sorted(status for status, _ in done) == [200] + [400] * 7
    assert {answer["error"] for status, answer in done if status == 400} == {"this enrollment has ended; begin again"}
    assert len(page("GET", "/api/subjects/obama")[1]["templates"]) == 2
    key = begin(page, "obama", more=True)
    assert add_photo(page, key, samples / "obama2.jpg") == (400, {"error": "obama2.jpg: is enrolled already"})
    assert page("DELETE", f"/api/enrollments/{key}")[0] == 200


def test_the_page_speaks_of_no_options(desk: tuple[Browser, Kiosk], samples: Path) -> None:
    page, _ = desk
    key = begin(page, "E77")
    status, answer = add_photo(page, key, samples / "biden_portrait.jpg")
    assert status == 400
    assert re.search(
        r"already enrolled as biden \(score .*\); if that is the same person, add photos to biden instead$",
        answer["error"],
    )
    assert page("DELETE", f"/api/enrollments/{key}")[0] == 200
    at = (datetime.now(UTC) - timedelta(hours=2)).isoformat()
    entry = {"subject_id": "obama", "event_type": "check_in", "at": at, "reason": " "}
    status, answer, _ = page("POST", "/api/events", entry)
    assert status == 400
    assert answer["error"].startswith("the reason must be 1 to ")


@pytest.mark.stories
def test_a_camera_that_nobody_follows_is_free_again(desk: tuple[Browser, Kiosk]) -> None:
    page, _ = desk
    begin(page, "E20", source="camera")
    wish = {"subject_id": "E21", "source": "camera"}
    assert page("POST", "/api/enrollments", wish)[0] == 409
    begun_s = time.monotonic()
    wait_for(lambda: page("POST", "/api/enrollments", wish)[0] == 200, 25, what="the camera")
    assert time.monotonic() - begun_s > 10


def test_what_goes_wrong_before_the_camera_is_told_and_logged(kiosk: Kiosk, caplog: pytest.LogCaptureFixture) -> None:
    def build() -> Guide:
        raise RuntimeError("the network fell over")

    capture = _Capture(load(kiosk.config, {}), build, threading.Lock())
    capture.start()
    with pytest.raises(KioskError, match="internal error; the kiosk's log says more"):
        capture.state(0)
    capture.stop()
    (line,) = caplog.messages
    assert line == "web page: enrollment from the camera: RuntimeError: the network fell over"


# A long log


@pytest.fixture(scope="module")
def long_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("long") / "kiosk.db"


@pytest.fixture(scope="module")
def long_log(
    long_store: Path, request: pytest.FixtureRequest, home: Kiosk
) -> Iterator[tuple[Browser, subprocess.Popen[str]]]:
    """20,000 events and 3,000 rejections."""
    kiosk = Kiosk(long_store.parent, request.config.getoption("--runtime"))
    copy_store(home, kiosk)
    rest = "'2026-03-02T08:00:00.000Z', 'UTC', 1, 'boot', 1, 'hq', 'door-1'"
    numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)"
    evidence = pack({"method": "manual", "reason": "=1+1", "more": list(range(100))})
    with contextlib.closing(sqlite3.connect(kiosk.store)) as db, db:
        db.execute(
            "INSERT INTO attendance (event_id, event_type, subject_id, occurred_at, tz, clock_synchronized, boot_id,"  # noqa: S608 - our own words
            f" boottime_ms, site, device, evidence) {numbers} SELECT 'e' || i, 'check_in', 'obama', {rest}, ? FROM n",
            [20_000, evidence],
        )
        db.execute(
            "INSERT INTO rejections (event_id, reason, occurred_at, tz, clock_synchronized, boot_id, boottime_ms,"  # noqa: S608
            f" site, device, evidence) {numbers} SELECT 'r' || i, 'unknown', {rest}, ? FROM n",
            [3_000, evidence],
        )
    process, port = serve(kiosk)
    yield Browser(port), process
    stop(process)


def test_a_long_log_is_shown_in_part_and_exported_whole_with_little_memory(
    long_log: tuple[Browser, subprocess.Popen[str]],
) -> None:
    page, process = long_log
    page("GET", "/api/events?since=2027-01-01")
    before_kib = peak_kib(process)
    _, log, _ = page("GET", "/api/events?since=2026-03-02&subject=obama")
    assert (log["found"], len(log["events"])) == (20_000, 500)
    assert [(one["seq"], one["name"]) for one in log["events"][:2]] == [
        (20_000, "Barack Obama"),
        (19_999, "Barack Obama"),
    ]
    assert page("GET", "/api/events?subject=biden")[1] == {"events": [], "found": 0}
    _, rejected, _ = page("GET", "/api/rejections")
    assert (rejected["found"], len(rejected["events"])) == (3_000, 500)
    assert rejected["events"][0]["event_id"] == "r3000"
    status, text, _ = page("GET", "/api/events.csv")
    rows = list(csv.DictReader(io.StringIO(text.decode())))
    assert status == 200
    assert [row["seq"] for row in rows] == [str(seq) for seq in range(1, 20_001)]
    assert rows[-1]["reason"] == "'=1+1", "nothing that a spreadsheet computes"
    _, document, _ = page("GET", "/api/events.json")
    assert [row["seq"] for row in document["events"]] == list(range(1, 20_001))
    assert page("GET", "/api/events.json?subject=biden")[1] == {"events": []}
    assert peak_kib(process) - before_kib < 32 * 1024, "a few MB, whatever is exported"


def peak_kib(process: subprocess.Popen[str]) -> int:
    """The most memory that a process has had."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text(encoding="ascii"))
    assert found is not None
    return int(found[1])


def test_an_export_that_nobody_takes_keeps_nobody_waiting(long_log: tuple[Browser, subprocess.Popen[str]]) -> None:
    page, _ = long_log
    with socket.create_connection(("127.0.0.1", page.port), 10) as stalled:
        stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stalled.sendall(f"GET /api/events.csv HTTP/1.1\r\nHost: 127.0.0.1:{page.port}\r\n\r\n".encode())
        assert stalled.recv(12) == b"HTTP/1.1 200"
        assert page("GET", "/api/gallery")[0] == 200
        assert page("GET", "/api/events.csv")[1].count(b"\n") == 20_001


def test_half_an_export_is_not_taken_for_a_whole_one(
    long_log: tuple[Browser, subprocess.Popen[str]], long_store: Path
) -> None:
    page, _ = long_log
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect(("127.0.0.1", page.port))
        slow.sendall(f"GET /api/events.json HTTP/1.1\r\nHost: 127.0.0.1:{page.port}\r\n\r\n".encode())
        assert slow.recv(12) == b"HTTP/1.1 200"
        away = long_store.rename(long_store.with_suffix(".away"))
        try:
            slow.settimeout(20)
            *_, last = iter(lambda: slow.recv(1 << 16), b"")
        finally:
            away.rename(long_store)
    assert not last.endswith(b"0\r\n\r\n"), "the mark of the end"


# What is refused


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "says"),
    [
        ("GET", "/api/subjects/nobody", None, 400, "nobody is enrolled under this id"),
        ("GET", "/api/subjects/..%2f..%2fetc", None, 404, "nothing at"),
        ("GET", "/../../etc/passwd", None, 404, "nothing at"),
        ("GET", "/api/nothing", None, 404, "nothing at"),
        ("PUT", "/api/subjects/obama", None, 404, "nothing at"),
        ("GET", "/api/events?since=yesterday", None, 400, "is no time"),
        ("GET", "/api/events?since=2026-12-31&until=2026-03-01", None, 400, "is it the other way round?"),
        ("GET", "/api/events?subject=a%20b", None, 400, "is not a subject id"),
        ("GET", "/api/live?after=-1", None, 400, "after: a frame's number"),
        ("GET", f"/api/live?after={'9' * 5000}", None, 400, "after: a frame's number"),
        ("GET", "/api/live?after=%D9%A3", None, 400, "after: a frame's number"),
        ("GET", f"/api/enrollments/x?after={'9' * 5000}", None, 400, "after: a state's number"),
        ("GET", "/api/events.csv?since=%EF%BC%91h", None, 400, "is no time"),
        ("GET", "/api/decisions/zzz", None, 400, "neither a seq nor an event id"),
        ("PATCH", "/api/subjects/obama", b"{", 400, "the request: invalid json"),
        ("PATCH", "/api/subjects/obama", {"name": 5}, 400, "name: input should be a valid string"),
        ("PATCH", "/api/subjects/obama", {"name": " "}, 400, "at least one character"),
        ("PATCH", "/api/subjects/obama", {"name": "x" * 201}, 400, "200"),
        ("PATCH", "/api/subjects/obama", {"name": "x", "threshold": 0}, 400, "threshold: extra inputs"),
        ("PATCH", "/api/subjects/obama", b" " * 20_000, 413, "larger than 16 KiB"),
        ("DELETE", "/api/subjects/obama", {"confirmed": "Obama"}, 400, "type the id to confirm"),
        ("DELETE", "/api/subjects/obama", None, 400, "confirmed: field required"),
    ],
)
def test_bad_requests_get_one_line_and_change_nothing(
    page: Browser, home: Kiosk, method: str, path: str, body: object, status: int, says: str
) -> None:
    before = dump(home.store)
    answered, answer, _ = page(method, path, body)
    assert answered == status, answer
    assert says in answer["error"]
    assert "\n" not in answer["error"]
    assert dump(home.store) == before


def test_a_huge_upload_is_refused_before_it_is_read(page: Browser) -> None:
    status, begun, _ = page("POST", "/api/enrollments", {"subject_id": "E9", "source": "photos"})
    assert status == 200
    with socket.create_connection(("127.0.0.1", page.port), 10) as connection:
        head = f"POST /api/enrollments/{begun['key']}/photos?name=a.jpg HTTP/1.1\r\nHost: 127.0.0.1:{page.port}\r\n"
        connection.sendall(f"{head}Origin: {page.origin}\r\nContent-Length: 9999999999\r\n\r\n".encode())
        assert connection.recv(4096).startswith(b"HTTP/1.1 413")
    assert page("DELETE", f"/api/enrollments/{begun['key']}")[0] == 200
    assert page("GET", f"/api/enrollments/{begun['key']}")[0] == 400


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Origin": "https://127.0.0.1:PORT"},
        {"Origin": "http://127.0.0.1:PORT.evil.example"},
        {"Origin": "http://127.0.0.1:1"},
    ],
)
def test_other_pages_cannot_act(page: Browser, home: Kiosk, headers: Mapping[str, str]) -> None:
    """Cross-site requests carry no data back; here they do nothing, either."""
    before = dump(home.store)
    forged = {name: value.replace("PORT", str(page.port)) for name, value in headers.items()}
    status, answer, _ = page("DELETE", "/api/subjects/obama", {"confirmed": "obama"}, forged)
    assert status == 403
    assert "another page" in answer["error"]
    assert dump(home.store) == before


def test_other_pages_cannot_keep_it_busy(page: Browser) -> None:
    """A picture in a foreign page sends no Origin; browsers tell all the same."""
    for site in ("cross-site", "same-site"):
        assert page("GET", "/api/subjects", None, {"Origin": "", "Sec-Fetch-Site": site})[0] == 403
    assert page("GET", "/api/subjects", None, {"Sec-Fetch-Site": "same-origin"})[0] == 200
    assert page("GET", "/", None, {"Sec-Fetch-Site": "cross-site"})[0] == 200, "a link to the page is fine"


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8321", "127.0.0.1.evil.example", "[2001:db8::1]:80"])
def test_a_foreign_name_that_leads_here_gets_nothing(page: Browser, host: str) -> None:
    """DNS rebinding: without a password the name in the address bar is what protects."""
    for method in ("GET", "DELETE"):
        forged = {"Host": host, "Origin": f"http://{host}"}
        status, answer, _ = page(method, "/api/subjects/obama", None, forged)
        assert status == 421
        assert set(answer) == {"error"}


def test_names_of_this_machine_lead_here(page: Browser) -> None:
    for host in ("localhost", f"localhost:{page.port}", "[::1]:9000", "127.0.0.1:9000"):
        assert page("GET", "/api/subjects", None, {"Host": host})[0] == 200


# Logging in


def test_nothing_is_told_before_the_login(guarded: Browser) -> None:
    stranger = Browser(guarded.port, tls=guarded.tls)
    assert stranger("GET", "/")[0] == 200
    assert stranger("GET", "/api/session")[1] == {"logged_in": False}
    for method, path in [
        ("GET", "/api/subjects"),
        ("GET", "/api/live"),
        ("GET", "/api/health"),
        ("GET", "/api/events.csv"),
        ("DELETE", "/api/subjects/obama"),
        ("POST", "/api/enrollments"),
    ]:
        status, answer, _ = stranger(method, path)
        assert (status, answer) == (401, {"error": "log in first"})
    stranger.cookie = f"__Host-kiosk-{guarded.port}=guessed"
    assert stranger("GET", "/api/subjects")[0] == 401


def test_a_login_lasts_until_the_logout(guarded: Browser) -> None:
    admin = Browser(guarded.port, tls=guarded.tls)
    assert admin.log_in(PASSWORD) == 200
    assert admin("GET", "/api/subjects")[1]["total"] == 2
    cookie = admin("POST", "/api/session", {"password": PASSWORD})[2]["Set-Cookie"]
    assert cookie.startswith(f"__Host-kiosk-{guarded.port}=")
    for attribute in ("HttpOnly", "Secure", "SameSite=strict", "Path=/"):
        assert attribute in cookie
    assert admin("DELETE", "/api/session")[0] == 200
    assert admin("GET", "/api/subjects")[0] == 401


def test_a_login_cannot_be_used_by_other_pages(guarded: Browser) -> None:
    admin = Browser(guarded.port, tls=guarded.tls)
    assert admin.log_in(PASSWORD) == 200
    status, _, _ = admin("DELETE", "/api/subjects/obama", {"confirmed": "obama"}, {"Origin": "https://evil.example"})
    assert status == 403
    assert admin("GET", "/api/subjects")[1]["total"] == 2


def test_guessing_is_slowed_down(guarded: Browser) -> None:
    guesser = Browser(guarded.port, tls=guarded.tls)
    answers = [guesser("POST", "/api/session", {"password": f"guess {number}"}) for number in range(7)]
    assert [status for status, _, _ in answers] == [401] * 5 + [429] * 2
    assert re.fullmatch(r"too many wrong passwords; try again in \d s", answers[-1][1]["error"])
    assert int(answers[-1][2]["Retry-After"]) <= 6
    # The right one has to wait, too: else guessing would go on.
    assert guesser.log_in(PASSWORD) == 429


def test_pauses_grow_and_end() -> None:
    now_s = 1000.0
    sessions = Sessions(PASSWORD, now_s=lambda: now_s)
    for _ in range(4):
        assert sessions.log_in("wrong", "10.0.0.9") is None
    pauses = []
    for _ in range(10):
        assert sessions.log_in("wrong", "10.0.0.9") is None
        with pytest.raises(Paused) as paused:
            sessions.log_in(PASSWORD, "10.0.0.9")
        pauses.append(paused.value.seconds)
        assert sessions.log_in(PASSWORD, "10.0.0.8"), "others are not kept out by one who guesses"
        now_s += paused.value.seconds
    assert pauses == [5, 10, 20, 40, 80, 160, 320, 640, 900, 900]
    assert sessions.log_in(PASSWORD, "10.0.0.9")
    assert sessions.log_in("wrong", "10.0.0.9") is None, "after the right one the count begins anew"


def test_nobody_is_kept_out_by_others() -> None:
    sessions = Sessions(PASSWORD, now_s=lambda: 1000.0)
    for number in range(5000):
        assert sessions.log_in("wrong", f"10.0.{number // 250}.{number % 250}") is None
    assert sessions.log_in(PASSWORD, "10.9.9.9")


def test_sessions_end_by_themselves() -> None:
    now_s = 1000.0
    sessions = Sessions(PASSWORD, now_s=lambda: now_s)
    token = sessions.log_in(PASSWORD, "a")
    now_s += 29 * 60
    assert sessions.holds(token)
    now_s += 29 * 60
    assert sessions.holds(token), "using it keeps it"
    now_s += 31 * 60
    assert not sessions.holds(token), "half an hour unused"
    token = sessions.log_in(PASSWORD, "a")
    for _ in range(24):
        now_s += 29.9 * 60
        assert sessions.holds(token)
    now_s += 29.9 * 60
    assert not sessions.holds(token), "twelve hours"
    assert not sessions.holds(None)


# Who says nothing


@pytest.mark.parametrize(
    "said", [b"", b"GET / HTTP/1.1\r\nHost: 127.0", b"POST /api/session HTTP/1.1\r\nHost: 127.0.0.1\r\n"]
)
def test_who_says_nothing_is_sent_away(page: Browser, said: bytes) -> None:
    with socket.create_connection(("127.0.0.1", page.port), 10) as silent:
        silent.sendall(said)
        silent.settimeout(HEAD_TIMEOUT_S + 10)
        with contextlib.suppress(ConnectionResetError):
            assert silent.recv(1) == b""


def test_a_body_that_stalls_is_given_up(page: Browser) -> None:
    with socket.create_connection(("127.0.0.1", page.port), 10) as slow:
        head = f"POST /api/session HTTP/1.1\r\nHost: 127.0.0.1:{page.port}\r\nOrigin: {page.origin}\r\n"
        slow.sendall(f"{head}Content-Length: 100\r\n\r\n{{".encode())
        slow.settimeout(20)
        answer = b""
        while b"nothing came for 10 s" not in answer:
            part = slow.recv(4096)
            assert part, answer
            answer += part


def test_many_silent_connections_keep_nobody_out_and_cost_little(kiosk: Kiosk, home: Kiosk) -> None:
    """Their share is bounded, and each goes after ten seconds; the log stays short, and the end comes at once."""
    copy_store(home, kiosk)
    process, port = serve(kiosk)
    silent = []
    try:
        for _ in range(600):
            one = socket.socket()
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", port))
            silent.append(one)
        wait_for(lambda: _answers_http(Browser(port)), 15, what="an answer")
    finally:
        began_s = time.monotonic()
        process.terminate()
        _, log = process.communicate(timeout=20)
        for one in silent:
            one.close()
    assert process.returncode == 0
    assert time.monotonic() - began_s < 4
    assert "Traceback" not in log
    assert len(log.splitlines()) < 10


def _answers_http(browser: Browser) -> bool:
    try:
        return browser("GET", "/api/subjects")[0] == 200
    except OSError:
        return False


def test_the_end_does_not_wait_for_who_waits(kiosk: Kiosk, home: Kiosk) -> None:
    """Long polls are answered, and no traceback is left behind."""
    copy_store(home, kiosk)
    process, port = serve(kiosk)
    browser = Browser(port)
    _, begun, _ = browser("POST", "/api/enrollments", {"subject_id": "E1", "source": "camera"})
    waiting = threading.Thread(target=lambda: _answers_http(browser))
    waiting.start()
    with socket.create_connection(("127.0.0.1", port), 10) as unfinished:
        unfinished.sendall(
            f"POST /api/session HTTP/1.1\r\nHost: 127.0.0.1\r\nOrigin: {browser.origin}\r\n"
            "Content-Length: 9\r\n\r\n{".encode()
        )
        time.sleep(0.3)
        began_s = time.monotonic()
        stop(process)
    assert time.monotonic() - began_s < 4
    waiting.join(10)
    assert begun


# Serving it at all


@pytest.mark.parametrize(
    ("web", "says"),
    [
        ({"host": "0.0.0.0"}, "web.host: 0.0.0.0 can be reached from other machines and no password is set"),  # noqa: S104
        ({"host": "::"}, "no password is set"),
        ({"host": "0.0.0.0", "password_file": "secret"}, "TLS is off"),  # noqa: S104
        ({"password_file": "short"}, "10 characters or more"),
        ({"password_file": "nowhere"}, "nowhere: No such file"),
        ({"tls": {"cert_file": "nowhere", "key_file": "secret"}}, "web.tls.cert_file: nowhere: no such file"),
        ({"tls": {"cert_file": "secret", "key_file": "secret"}}, "are not a PEM certificate and its key"),
    ],
)
def test_what_would_be_open_to_others_is_not_served(
    kiosk: Kiosk,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    empty_room: Path,
    web: dict[str, Any],
    says: str,
) -> None:
    monkeypatch.chdir(kiosk.folder)
    for name, text in {"secret": PASSWORD, "short": "123456789"}.items():
        Path(name).write_text(text, encoding="utf-8")
        Path(name).chmod(0o600)
    kiosk.configure(camera={"source": str(empty_room)}, web={"enabled": True, **web})
    for command in ("web", "run", "check"):
        code = run_in_process(command, "--config", str(kiosk.config))
        told = capsys.readouterr()
        assert code == 78, command
        if command == "check":
            assert says in re.search("FAIL  web .*", told.out)[0]  # type: ignore[index]
        else:
            assert says in assert_one_line_error(told.err)


def test_a_taken_port_is_told(page: Browser, kiosk: Kiosk) -> None:
    kiosk.configure(web={"port": page.port})
    result = kiosk("web")
    assert result.returncode == 69
    assert "set web.port to another one" in assert_one_line_error(result.stderr)


def test_others_on_the_way_are_let_in_only_when_that_is_said(kiosk: Kiosk, own_address: str) -> None:
    secret = kiosk.folder / "password"
    secret.write_text(PASSWORD, encoding="utf-8")
    secret.chmod(0o600)
    process, port = serve(kiosk, host=own_address, password_file=str(secret), allow_plaintext=True)
    try:
        assert not answers(port), "only at the address that was named"
        connection = http.client.HTTPConnection(own_address, port, timeout=10)
        connection.request("GET", "/api/subjects")
        assert connection.getresponse().status == 401
        connection.close()
    finally:
        stop(process)


@pytest.mark.stories
def test_the_daemon_serves_it_beside_itself_and_takes_it_along(kiosk: Kiosk, home: Kiosk, empty_room: Path) -> None:
    copy_store(home, kiosk)
    port = free_port()
    kiosk.configure(camera={"source": str(empty_room), "loop": True}, web={"enabled": True, "port": port})
    log = kiosk.folder / "log"
    daemon = kiosk.start("run", log=log)
    try:
        browser = Browser(port)
        wait_for(lambda: answers(port), 20)
        status, health, _ = browser("GET", "/api/health")
        assert (status, health["running"], health["broker"]) == (200, True, "off")
        check_health_for_many(browser, kiosk)
        status, live, _ = browser("GET", "/api/live")
        assert status == 200
        length = int.from_bytes(live[:4], "big")
        assert json.loads(live[4 : 4 + length])["faces"] == []
        assert live[4 + length :][:3] == b"\xff\xd8\xff"
        tasks = Path(f"/proc/{daemon.pid}/task").glob("*/children")
        (child,) = " ".join(task.read_text(encoding="ascii") for task in tasks).split()
        # The page's end is not the door's.
        subprocess.run(["kill", "-9", child], check=True)
        wait_for(lambda: not answers(port), 5)
        wait_for(lambda: answers(port), 20)
        assert "`kiosk web` was ended by signal 9; trying again in 1 s" in log.read_text(encoding="utf-8")
        daemon.kill()
        daemon.wait(10)
        wait_for(lambda: not answers(port), 10, what="the page's end")
    finally:
        daemon.kill()
        daemon.wait(10)


def check_health_for_many(browser: Browser, kiosk: Kiosk) -> None:
    """The kiosk has four places for who looks; the page needs one of them, whoever looks at the page."""
    with contextlib.ExitStack() as others:
        clients = [others.enter_context(PreviewClient(socket_path(kiosk.store))) for _ in range(4)]
        for client in clients[:3]:
            client.health()
        for _ in range(2):
            with ThreadPoolExecutor(10) as pool:
                answers = list(pool.map(lambda _: browser("GET", "/api/health")[1], range(20)))
            assert {(one["running"], one["fault"], one["health"] is None) for one in answers} == {(True, None, False)}
            time.sleep(1.1)
        wait_for(lambda: takes_place(clients[3]), 5, what="the last place")
        status, health, _ = browser("GET", "/api/health")
        assert (status, health["running"], health["health"]) == (200, True, None), health["fault"]
        assert "4 others look already" in health["fault"]
    wait_for(lambda: browser("GET", "/api/health")[1]["health"] is not None, 10, what="an answer")


def takes_place(client: PreviewClient) -> bool:
    try:
        client.health()
    except UnavailableError:
        return False
    return True


@pytest.fixture(scope="module")
def empty_room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from kiosk.clip import Scene, write_clip

    path = tmp_path_factory.mktemp("clip") / "empty.avi"
    write_clip(path, [Scene(2.0)])
    return path
