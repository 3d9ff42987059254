"""``kiosk web``: the administration page."""

from __future__ import annotations

from pathlib import Path

import click

from kiosk.commands.options import common_options, load


@click.command("web")
@common_options
def command(*, config_path: Path | None, verbose: int) -> None:
    """Serve the administration page until Ctrl-C.

    What the camera sees and what is decided, people, attendance, rejected attempts, health. By default only this
    machine can open it, at http://127.0.0.1:8321/; `web` in the configuration has more. The page works on the store by
    itself; live pictures it gets from the running kiosk.
    """
    from kiosk.web.server import serve

    serve(load(config_path, verbose))
