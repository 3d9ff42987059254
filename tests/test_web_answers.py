"""The page answers, beside the lowest versions of what serves it, too."""

from __future__ import annotations

from command_line import Kiosk
from test_web import Browser, serve, stop


def test_the_page_and_its_data_are_served(kiosk: Kiosk) -> None:
    assert kiosk("subjects", "add", "E1", "--name", "Ada").returncode == 0
    process, port = serve(kiosk)
    try:
        page = Browser(port)
        status, content, headers = page("GET", "/")
        assert (status, content[:15]) == (200, b"<!doctype html>")
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert page("GET", "/api/subjects")[1]["total"] == 1
        assert page("PATCH", "/api/subjects/E1", {"name": "Ada Lovelace"})[1]["name"] == "Ada Lovelace"
        assert page("PATCH", "/api/subjects/E1", {"name": ""}, {"Origin": "http://elsewhere"})[0] == 403
    finally:
        stop(process)
