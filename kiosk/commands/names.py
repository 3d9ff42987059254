"""Names of people, which need not stand in a command line: the list of processes and sudo's log show those."""

from __future__ import annotations

import sys

import click

from kiosk.errors import InputError

_LONGEST_BYTES = 1024
"""More than the longest name takes in UTF-8."""


def read_name(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """Callback of an option or argument: ``-`` stands for one line of standard input, asked for on a terminal.

    Raises:
        InputError: there is none, or it is no text.
    """
    if value != "-":
        return value
    if sys.stdin.isatty():
        name: str = click.prompt("name", err=True)
        return name
    try:
        name = sys.stdin.buffer.readline(_LONGEST_BYTES).decode().strip()
    except UnicodeDecodeError:
        name = ""
    if not name:
        raise InputError(f"{param.get_error_hint(ctx)}: a name is one line of UTF-8 on standard input")
    return name
