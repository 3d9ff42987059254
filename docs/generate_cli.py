"""Writes cli.md from the commands themselves; ``--check`` only says whether it is up to date."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

PAGE = ROOT / "docs" / "cli.md"
INTRODUCTION = """\
# Commands

<!-- Written by docs/generate_cli.py: `just docs` brings it up to date. -->

Every failure is one line on stderr that names the thing and the fix. Exit codes: 0 done, 64 usage, 65 bad input
(unreadable image, no face, two faces where one is needed, duplicate face), 69 broker, camera or model not available,
70 internal error, 73 and 74 cannot write, 77 not permitted, 78 bad configuration, 130 interrupted.
"""


def page() -> str:
    from convert.cli import cli as convert
    from kiosk.cli import cli as kiosk

    sections = [INTRODUCTION]
    for name, group in (("kiosk", kiosk), ("kiosk-convert", convert)):
        sections += describe(group, click.Context(group, info_name=name))
    return "\n".join(sections)


def describe(command: click.Command, context: click.Context) -> Iterator[str]:
    """A command's section, then those of its subcommands."""
    depth = context.command_path.count(" ")
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    yield f"{'#' * (depth + 2)} `{context.command_path}`\n\n```\n{usage}\n```\n"
    if command.help:
        yield prose(command.help)
    table = list(options(command, context))
    if table:
        yield "\n".join(["| option | meaning |", "|---|---|", *table]) + "\n"
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            if child is not None and not child.hidden:
                yield from describe(child, click.Context(child, info_name=name, parent=context))


def prose(text: str) -> str:
    """A docstring's paragraphs; click's mark for "do not rewrap" becomes a code block."""
    paragraphs = inspect.cleandoc(text).split("\f")[0].strip().split("\n\n")
    shown = [f"```\n{part[2:]}\n```" if part.startswith("\b\n") else part for part in paragraphs]
    return "\n\n".join(shown) + "\n"


def options(command: click.Command, context: click.Context) -> Iterator[str]:
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if isinstance(parameter, click.Option) and record is not None and "--help" not in parameter.opts:
            names, meaning = (cell.replace("|", "\\|") for cell in record)
            yield f"| `{names}` | {meaning} |"


def main() -> int:
    text = page()
    if "--check" in sys.argv[1:]:
        if not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text:
            print("docs/cli.md is not up to date: run `just docs`", file=sys.stderr)
            return 1
        return 0
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
