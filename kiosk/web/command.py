"""``kiosk web``: the administration page."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

import click

from kiosk.commands.options import common_options, load


@click.command("web")
@click.option("--beside", is_flag=True, help="End when the standard input does: for who starts it beside itself.")
@common_options
def command(*, beside: bool, config_path: Path | None, verbose: int) -> None:
    """Serve the administration page.

    Until Ctrl-C. What the camera sees and what is decided, people, attendance, rejected attempts, health. By default
    only this machine can open it, at http://127.0.0.1:8321/; `web` in the configuration has more. The page works on
    the store by itself; live pictures it gets from the running kiosk.
    """
    from kiosk.web.server import serve

    config = load(config_path, verbose)
    if beside:
        threading.Thread(target=_end_with_input, name="input", daemon=True).start()
    serve(config)


def _end_with_input() -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
