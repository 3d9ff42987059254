"""Makes the pictures in docs/images: the page as Chromium shows it, commands as a terminal does.

A kiosk runs on the demo's clip, with the sample photos' people enrolled (docs/CREDITS.md): nobody else is shown.
"""

from __future__ import annotations

import html
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from broker import Mosquitto, Subscriber, free_port, wait_for  # noqa: E402 - the tests' own
from browser import LAPTOP, PHONE, open_browser  # noqa: E402
from playwright.sync_api import Browser, Page  # noqa: E402

from kiosk.demo import write_scenes  # noqa: E402

IMAGES = ROOT / "docs" / "images"
SAMPLES = ROOT / "kiosk" / "data" / "samples"
TERMINAL = """<!doctype html><meta charset="utf-8"><style>
body { margin: 0; background: #14201d; } pre { margin: 0; padding: 18px 22px; color: #dfe9e6; width: max-content;
font: 15px/1.45 "DejaVu Sans Mono", monospace; } b { color: #7fe0c8; font-weight: 600; }</style>"""


class Kiosk:
    """Commands with a configuration of their own."""

    def __init__(self, folder: Path, mqtt_port: int) -> None:
        self.port = free_port()
        self._folder = folder
        (folder / "config.yaml").write_text(
            yaml.safe_dump(
                {
                    "device": {"timezone": "Europe/Berlin"},
                    "camera": {"source": "clip.avi", "loop": True},
                    "store": {"path": "kiosk.db"},
                    "match": {"refractory_s": 4},
                    "mqtt": {"port": mqtt_port},
                    "web": {"enabled": True, "port": self.port},
                }
            ),
            encoding="utf-8",
        )
        self._environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def run(self, *arguments: str) -> str:
        """What a command prints, as a terminal shows it."""
        result = subprocess.run(
            self._command(arguments),
            cwd=self._folder,
            env=self._environment,
            text=True,
            capture_output=True,
            check=False,
        )
        return (result.stdout + result.stderr).strip()

    @contextmanager
    def started(self) -> Iterator[None]:
        with (self._folder / "log").open("w") as log:
            process = subprocess.Popen(
                self._command(("run",)), cwd=self._folder, env=self._environment, stdout=log, stderr=log
            )
        try:
            yield
        finally:
            process.terminate()
            process.wait(20)

    def serves(self) -> bool:
        """Whether the page answers."""
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    @staticmethod
    def _command(arguments: tuple[str, ...]) -> list[str]:
        return [sys.executable, "-m", "kiosk", *arguments]


def photograph_page(browser: Browser, url: str, size: tuple[int, int], name: str) -> None:
    page = browser.new_context(viewport={"width": size[0], "height": size[1]}, locale="en-GB").new_page()
    shots: dict[str, Callable[[Page], object]] = {
        "live": lambda page: page.wait_for_function(
            "() => /score 0/.test(document.querySelector('ul').textContent) && "
            "document.querySelectorAll('ul')[1].childElementCount > 2"
        ),
        "people": lambda page: page.get_by_role("row").nth(1).wait_for(),
        "attendance": lambda page: page.get_by_role("row").nth(2).wait_for(),
        "health": lambda page: page.locator("svg.plot").wait_for(),
    }
    for tab, ready in shots.items():
        page.goto(f"{url}#{tab}")
        page.set_default_timeout(240_000)
        ready(page)
        page.screenshot(path=IMAGES / f"{tab}-{name}.png", full_page=tab == "health")
    page.context.close()


def photograph_dialog(browser: Browser, url: str) -> None:
    page = browser.new_context(viewport={"width": LAPTOP[0], "height": LAPTOP[1]}, locale="en-GB").new_page()
    page.goto(f"{url}#people")
    page.get_by_role("button", name="Enroll a person").click()
    page.get_by_label("Id (letters").fill("E1003")
    page.get_by_label("Name", exact=True).fill("Susan Collins")
    page.get_by_role("button", name="From photos").click()
    page.get_by_label("Photos that show").set_input_files([SAMPLES / "collins.jpg", ROOT / "docs" / "CREDITS.md"])
    page.get_by_text("✗").wait_for()
    page.screenshot(path=IMAGES / "enroll-laptop.png")
    page.get_by_role("button", name="Cancel").click()
    page.context.close()


def photograph_terminal(browser: Browser, name: str, sessions: list[tuple[str, str]]) -> None:
    text = "\n\n".join(f"<b>$ {html.escape(command)}</b>\n{html.escape(output)}" for command, output in sessions)
    page = browser.new_page()
    page.set_content(f"{TERMINAL}<pre>{text}</pre>")
    page.locator("pre").screenshot(path=IMAGES / f"{name}.png")
    page.close()


def main() -> None:
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_scenes(folder / "clip.avi")
        with Mosquitto(folder) as mosquitto, Subscriber(mosquitto.port), open_browser() as browser:
            kiosk = Kiosk(folder, mosquitto.port)
            for subject_id, person, photo in (
                ("E1001", "Barack Obama", "obama"),
                ("E1002", "Joe Biden", "biden_portrait"),
            ):
                kiosk.run("enroll", subject_id, "--name", person, str(SAMPLES / f"{photo}.jpg"))
            with kiosk.started():
                url = f"http://127.0.0.1:{kiosk.port}/"
                wait_for(kiosk.serves, 60, what="the page")
                wait_for(lambda: "check_in" in kiosk.run("events"), 60, what="a check-in")
                photograph_dialog(browser, url)
                for size, device in ((LAPTOP, "laptop"), (PHONE, "phone")):
                    photograph_page(browser, url, size, device)
                time.sleep(1)
                photograph_terminal(
                    browser,
                    "terminal",
                    [(f"kiosk {line}", kiosk.run(*line.split())) for line in ("subjects list", "why 1")],
                )


if __name__ == "__main__":
    main()
