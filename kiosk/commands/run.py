"""``kiosk run``: the daemon."""

from __future__ import annotations

from pathlib import Path

import click

from kiosk.commands.options import common_options, load


@click.command("run")
@common_options
def command(*, config_path: Path | None, verbose: int) -> None:
    """Watch the camera, recognize people and report their check-ins.

    Runs until SIGTERM or Ctrl-C, or to the end of a video file or folder of images. Without a broker it keeps
    recognizing, and delivers when one appears.
    """
    from kiosk.daemon import run_daemon

    config = load(config_path, verbose, quiet=False)
    if not config.web.enabled:
        run_daemon(config)
        return
    from kiosk.commands.web_settings import web_settings

    # What must not be served like this is told now, not by a page that stays away.
    web_settings(config)
    run_daemon(config, page=["web", "--beside", *([] if config_path is None else ["--config", str(config_path)])])
