"""The ``kiosk`` command: finds the subcommand, and turns every failure into one line and an exit code.

Nothing heavy is imported here: each subcommand's module is loaded only when it runs.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import gc
import importlib
import os
import re
import resource
import signal
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import click

from kiosk.errors import ConfigError, KioskError

_COMMANDS = {
    "run": ("run", "Watch the camera, recognize people and report their check-ins."),
    "enroll": ("enroll", "Enroll a person from photos, or before the camera."),
    "subjects": ("subjects", "List, add, rename, audit, move, remove people; codes, consent."),
    "verify": ("verify", "Do two photos show the same person?"),
    "identify": ("identify", "Who is in these photos?"),
    "events": ("events", "Show the attendance log, correct it, sum it up, sign it."),
    "outbox": ("outbox", "See what waits for the broker; retry what was set aside."),
    "why": ("why", "Show what one decision rests on, accepted or not."),
    "calibrate": ("calibrate", "Find the threshold for this gallery and this door."),
    "camera": ("camera", "See what the camera sees; list cameras; help to mount one."),
    "check": ("check", "Check that the kiosk would run; say what to mend."),
    "config": ("configuration", "Show and check the configuration; update an old file."),
    "feedback": ("feedback", "Try out lights, buzzer and relay at the door."),
    "diagnostics": ("diagnostics", "Write a file for whoever helps, without anything personal."),
    "audit": ("audit", "Show what was done to the kiosk and by whom; verify that log."),
    "web": (".web.command", "Serve the administration page."),
    "privacy": ("privacy", "Say what is stored about whom and why; change the key."),
    "model": ("model", "List, inspect, install, roll back or remove model bundles."),
    "demo": ("demo", "See everything work, with nothing set up."),
}
"""Name: module as seen from ``kiosk.commands`` (it has a ``command``), short help (kept here: help imports nothing)."""

_EXIT_USAGE = 64
_EXIT_INTERNAL = 70
_EXIT_OUTPUT = 74
_EXIT_PERMISSION = 77
_EXIT_INTERRUPTED = 128 + signal.SIGINT


@dataclass(slots=True)
class Invocation:
    """What outlives a failed command: whether the user wants to see tracebacks."""

    debug: bool = False


class LazyGroup(click.Group):
    """A group whose subcommands are imported when they are called, not when they are listed."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = importlib.import_module(f".{_COMMANDS[cmd_name][0]}", "kiosk.commands").command
        if not gc.isenabled():
            # Nothing of what was imported is ever garbage.
            gc.freeze()
            gc.enable()
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, short_help) for name, (_, short_help) in _COMMANDS.items()])


def _tell_version(context: click.Context, _option: click.Parameter, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        from kiosk.build import describe_build

        click.echo(f"kiosk {describe_build()}")
        context.exit()


@click.group(
    cls=LazyGroup,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done, 64 usage, 65 bad input, 69 broker, camera or model not available, "
    "73/74 cannot write, 77 not permitted, 78 bad configuration.",
)
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_tell_version,
    help="Show the version and which build it is, and exit.",
)
@click.option("--debug", is_flag=True, help="Show the traceback of an internal error.")
@click.pass_context
def cli(ctx: click.Context, debug: bool) -> None:
    """Recognize the people who belong here and report their check-ins over MQTT."""
    ctx.ensure_object(Invocation).debug = debug
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
        ctx.exit(_EXIT_USAGE)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit the process with its code."""
    # Until the command is imported: looking for garbage meanwhile would take a sixth of a short command's time.
    gc.disable()
    _leave_no_memory_behind()
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a name shows its escape; it never ends the command.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    code = run(sys.argv[1:] if arguments is None else arguments)
    sys.exit(_flush(code))


def _leave_no_memory_behind() -> None:
    """No core dump: the memory holds faces and names.

    The limit alone does not count where the kernel pipes dumps to a program; so none of the memory belongs to them.
    """
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError):
        Path("/proc/self/coredump_filter").write_text("0", encoding="ascii")


def run(arguments: Sequence[str]) -> int:
    """Run the command line and return the exit code; every failure is told on stderr."""
    invocation = Invocation()
    try:
        result: Any = cli.main(args=list(arguments), prog_name="kiosk", standalone_mode=False, obj=invocation)
    except Exception as error:  # noqa: BLE001 - the process's outermost guard: nothing may end in a traceback
        return _explain(error, debug=invocation.debug)
    except KeyboardInterrupt:
        return _EXIT_INTERRUPTED
    except SystemExit:
        # Click's way of saying that whoever read our stdout went away.
        return _EXIT_OUTPUT
    return result if isinstance(result, int) else 0


def _explain(error: Exception, *, debug: bool) -> int:
    if debug and not isinstance(error, click.exceptions.ClickException):
        traceback.print_exception(error)
    match error:
        case KioskError():
            # A configuration may have several problems, one a line; everything else is one line.
            for line in str(error).splitlines() if isinstance(error, ConfigError) else [str(error)]:
                _complain(line)
            code = error.exit_code
        case click.Abort():
            code = _EXIT_INTERRUPTED
        case click.ClickException():
            code = _explain_usage(error)
        case BrokenPipeError():
            code = _EXIT_OUTPUT
        case OSError() if error.errno is not None:
            code = _explain_os(error)
        case _:
            what = f"{type(error).__name__}: {error}"
            _complain(f"internal error: {what}; please report it; `kiosk --debug ...` shows the details")
            code = _EXIT_INTERNAL
    return code


def _explain_usage(error: click.ClickException) -> int:
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "kiosk"
    message = error.format_message().rstrip(".")
    if isinstance(error, click.exceptions.NoArgsIsHelpError) and isinstance(error.ctx.command, click.Group):
        # Click's message would be the whole help.
        message = f"{error.ctx.info_name}: say what to do: {', '.join(error.ctx.command.list_commands(error.ctx))}"
    unknown = re.fullmatch(r"No such command '(.{1,64})'", message)
    if unknown and isinstance(context, click.Context) and isinstance(context.command, click.Group):
        close = difflib.get_close_matches(unknown[1], context.command.list_commands(context), n=1)
        message += f". Did you mean {close[0]!r}?" if close else ""
    _complain(f"{message}; see `{path} --help`")
    return _EXIT_USAGE


def _explain_os(error: OSError) -> int:
    """A failure of the operating system that no part of the kiosk foresaw: the file, the reason, a way on."""
    what = f"{error.filename}: " if error.filename is not None else ""
    if isinstance(error, PermissionError):
        _complain(f"{what}{error.strerror}; run as the user who owns it, or change its permissions")
        return _EXIT_PERMISSION
    hint = {
        errno.ENOSPC: "; free some space",
        errno.EDQUOT: "; free some space",
        errno.EROFS: "; choose a place that can be written",
    }.get(error.errno or 0, "")
    _complain(f"{what}{error.strerror}{hint}")
    return _EXIT_OUTPUT


def _complain(text: str) -> None:
    """One line on stderr, whatever a file name in it contains."""
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    click.echo(f"kiosk: {line}", err=True)


def _flush(code: int) -> int:
    """Write out what is buffered; a reader that went away (``| head``) is no error worth a word."""
    try:
        sys.stdout.flush()
    except OSError as error:
        # Python flushes again when it exits: give it somewhere to write to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return code or (_EXIT_OUTPUT if isinstance(error, BrokenPipeError) else _explain_os(error))
    return code
