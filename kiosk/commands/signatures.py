"""``kiosk events keygen``, ``export`` and ``verify``: events that can be trusted though the broker cannot."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import click

from kiosk.commands.options import PATH, WholeNumber, common_options, count, json_option, load, print_json
from kiosk.commands.stores import open_store
from kiosk.errors import InputError, InputPermissionError, OutputError, PermissionDeniedError, UsageError
from kiosk.events import MAX_SEQ, encode, nameless
from kiosk.signatures import EventSigner, EventVerifier, Finding, PublicKeys, parse_event

_LONGEST_LINE_BYTES = 64 * 1024
_SHOWN_DEVICES = 5
_SHOWN_LENGTH = 80
_ID = r"[A-Za-z0-9._-]{1,64}"


@click.command("keygen")
@click.argument("file", type=PATH)
def keygen(*, file: Path) -> None:
    """Make a key that events are signed with; print its public half.

    FILE gets the private key, readable by its owner only. mqtt.sign_key_file names it, or it is installed as the
    credential event-signing-key. Consumers get what is printed.
    """
    signer = EventSigner.generate()
    try:
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as key_file:
            key_file.write(signer.private_pem())
            key_file.flush()
            os.fsync(key_file.fileno())
    except FileExistsError:
        raise OutputError(f"{file}: is there already; a key is not written over a file") from None
    except PermissionError:
        raise PermissionDeniedError(f"{file}: may not be written by this user") from None
    except OSError as error:
        raise OutputError(f"{file}: cannot be written: {error.strerror}") from error
    click.echo(signer.public_pem().decode(), nl=False)


@click.command("export")
@common_options
def export(*, config_path: Path | None, verbose: int) -> None:
    """Print the events as they are sent, one JSON document a line, from the oldest kept to the newest."""
    config = load(config_path, verbose)
    with open_store(config) as store:
        for payload in store.event_payloads():
            event = payload if config.mqtt.include_names else nameless(payload)
            sys.stdout.buffer.write(encode(event) + b"\n")
        sys.stdout.buffer.flush()


@click.command("verify")
@click.option(
    "--public-key",
    "keys",
    metavar="FILE",
    type=PATH,
    multiple=True,
    required=True,
    help="The kiosk's public key (PEM). Once for each it had; never other kiosks', which could then speak for it.",
)
@click.option("--device", metavar="SITE/DEVICE", help="Only this kiosk's events.")
@click.option(
    "--last-seq",
    metavar="N",
    type=WholeNumber(1, MAX_SEQ),
    help="How far the kiosk has come (last_seq of `kiosk outbox list --json`), so that events cut off at the end show.",
)
@click.option(
    "--from-seq",
    metavar="N",
    type=WholeNumber(1, MAX_SEQ),
    help="Begin at this number: the first that was signed, as the kiosk tells, where signing was turned on later.",
)
@click.argument("files", nargs=-1, type=PATH)
@json_option
def verify(
    *,
    keys: tuple[Path, ...],
    device: str | None,
    last_seq: int | None,
    from_seq: int | None,
    files: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Verify received events: who signed them, and whether any is missing.

    FILES, or stdin, hold one JSON document a line, in the order of their arrival: what mosquitto_sub or `kiosk events
    export` print. Exit code 65: something is wrong, or there is nothing to verify.

    What was cut off at the end does not show in the events. Compare the last one, which is told with its time, with
    what the kiosk says, or give that to --last-seq.
    """
    if device is not None and re.fullmatch(f"{_ID}/{_ID}", device) is None:
        raise UsageError(f"--device {device!r}: write it like hq/door-1")
    intake = _Intake(PublicKeys.load(keys), device, from_seq or 0)
    with ExitStack() as stack:
        streams = [(str(file), _open(file, stack)) for file in files] or [("standard input", sys.stdin.buffer)]
        for name, stream in streams:
            try:
                for line in _lines(stream):
                    intake.take(line)
            except OSError as error:
                raise InputError(f"{name}: cannot be read: {error.strerror}") from error
    verifier = intake.only()
    findings = verifier.findings(last_seq=last_seq)
    if as_json:
        print_json({"ok": not findings, **_counts(verifier), "findings": [asdict(finding) for finding in findings]})
    else:
        for finding in findings:
            click.echo(_describe(finding))
        click.echo(_summary(verifier))
    if findings:
        raise InputError(f"{count(len(findings), 'thing')} wrong with these events")


class _Intake:
    """Sorts lines by the kiosk they claim to be of."""

    def __init__(self, keys: PublicKeys, device: str | None, from_seq: int) -> None:
        self._from_seq = from_seq
        self._keys = keys
        self._device = device
        self._verifiers: dict[str, EventVerifier] = {}
        self._unreadable: list[tuple[int, str]] = []
        self._line = 0

    def take(self, text: bytes | None) -> None:
        """One line; None: it was too long to be an event."""
        self._line += 1
        if text is None:
            self._unreadable.append((self._line, f"no event: longer than {_LONGEST_LINE_BYTES} bytes"))
            return
        if not text.strip():
            return
        try:
            event = parse_event(text)
        except ValueError as error:
            self._unreadable.append((self._line, f"no event: {_one_line(error)}"))
            return
        device = _device(event)
        if device is None:
            self._unreadable.append((self._line, "no event: says of no kiosk (site, device) that it is its"))
        elif self._device in {None, device}:
            self._take_from(device, event)

    def _take_from(self, device: str, event: dict[str, Any]) -> None:
        """Leave out numbers below the first, and what has none (rejected events) as long as only such have come."""
        seq = event.get("seq")
        begun = device in self._verifiers
        if (type(seq) is int and seq < self._from_seq) or (seq is None and self._from_seq and not begun):
            return
        self._verifiers.setdefault(device, EventVerifier(self._keys)).take(self._line, event)

    def only(self) -> EventVerifier:
        """What became of the one kiosk's events.

        Raises:
            InputError: there are none, or they are of several.
        """
        if len(self._verifiers) > 1:
            shown = ", ".join(name[:_SHOWN_LENGTH] for name in sorted(self._verifiers)[:_SHOWN_DEVICES])
            raise InputError(f"these are events of {len(self._verifiers)} kiosks ({shown}); name one by --device")
        verifier = next(iter(self._verifiers.values()), None)
        if verifier is None:
            raise InputError(f"there are no events{f' of {self._device}' if self._device else ''} to verify")
        for line, why in self._unreadable:
            verifier.unreadable(line, why)
        return verifier


def _device(event: dict[str, Any]) -> str | None:
    """Which kiosk an event says it is of: ``hq/door-1``; None where no kiosk can be called so."""
    names = event.get("site"), event.get("device")
    if not all(isinstance(name, str) and re.fullmatch(_ID, name) for name in names):
        return None
    return "/".join(map(str, names))


def _open(file: Path, stack: ExitStack) -> BinaryIO:
    try:
        return stack.enter_context(file.open("rb"))
    except PermissionError as error:
        raise InputPermissionError(f"{file}: may not be read by this user; change its permissions") from error
    except OSError as error:
        raise InputError(f"{file}: {error.strerror}") from error


def _lines(stream: BinaryIO) -> Iterator[bytes | None]:
    """Line by line, None for one that is too long, however long it is."""
    while line := stream.readline(_LONGEST_LINE_BYTES + 1):
        if len(line) <= _LONGEST_LINE_BYTES:
            yield line
            continue
        while not line.endswith(b"\n") and line:
            line = stream.readline(_LONGEST_LINE_BYTES)
        yield None


def _one_line(error: ValueError) -> str:
    return "not JSON" if isinstance(error, json.JSONDecodeError | UnicodeDecodeError) else ascii(str(error))[1:-1]


def _describe(finding: Finding) -> str:
    event = "" if finding.seq is None else f"event {finding.seq}: "
    return f"line {finding.line}: {event}{finding.trouble}: {finding.message}"


def _counts(verifier: EventVerifier) -> dict[str, Any]:
    first, last = verifier.seqs or (None, None)
    return {
        "verified": verifier.verified,
        "repeats": verifier.repeats,
        "rejected_events": verifier.without_number,
        "first_seq": first,
        "last_seq": last,
        "last_occurred_at": verifier.last_occurred_at,
    }


def _summary(verifier: EventVerifier) -> str:
    first, last = verifier.seqs or (None, None)
    numbers = "" if first is None else f", numbers {first} to {last}"
    end = "" if last is None else f"; the last is {last}, of {verifier.last_occurred_at}"
    rejected = f", {verifier.without_number} of them rejected" if verifier.without_number else ""
    repeats = f", {count(verifier.repeats, 'repeat')}" if verifier.repeats else ""
    return f"{count(verifier.verified, 'event')} with a good signature{numbers}{rejected}{repeats}{end}"
