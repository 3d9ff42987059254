"""A real browser: headless Chromium, as the machine has it."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

LAPTOP, PHONE = (1280, 800), (390, 844)


def find_chromium() -> str:
    """The program; without it the test is skipped, or fails where CI=true."""
    own = Path(__file__).resolve().parent.parent / ".venv" / "bin" / "chromium"
    found = str(own) if own.exists() else shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        reason = "Chromium is not installed (Debian: apt-get install chromium)"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return found


@contextlib.contextmanager
def open_browser() -> Iterator[Browser]:
    # Chromium's sandbox needs user namespaces, which root and containers lack. It visits our own page only.
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


def open_page(browser: Browser, size: tuple[int, int] = LAPTOP) -> Page:
    """A page of its own session, in which every error of a script fails the test."""
    page = browser.new_context(viewport={"width": size[0], "height": size[1]}, locale="en-GB").new_page()
    page.set_default_timeout(20_000)
    page.on("pageerror", lambda error: pytest.fail(f"the page's script failed: {error}"))
    return page
