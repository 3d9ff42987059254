"""What an unfinished bulk enrollment has rejected, so that the next run need not look again, and decides the same.

Whom it enrolled the store knows. A face that was refused as another's must not be judged once more beside people who
came after it: they move the threshold. Nothing is kept but what the report says, under a digest, and only until
a run has come to its end.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from kiosk.commands.rejections import Rejection
from kiosk.errors import PermissionDeniedError, StoreError, UnavailableError

_SUFFIX = ".enrolling"


class Memory:
    """A file beside the store, one line a person of whom something was left out. One run at a time.

    ``conditions``: everything but the photos that a verdict depends on; under others nothing is remembered.

    Raises:
        UnavailableError: another run is under way.
        StoreError, PermissionDeniedError: the file cannot be opened.
    """

    def __init__(self, store: Path, conditions: object) -> None:
        self.path = store.with_name(store.name + _SUFFIX)
        self._conditions = conditions
        self._fd = self._open()
        self._records = self._read()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._fd)

    def key(self, *facts: object) -> str:
        """For what depends on these facts: they cannot be read off it."""
        return hashlib.sha256(json.dumps([self._conditions, *facts]).encode()).hexdigest()

    def recall(self, key: str) -> list[Rejection] | None:
        """What was noted under this key, None where nothing was."""
        return self._records.get(key)

    def note(self, key: str, rejections: Sequence[Rejection]) -> None:
        """On the disk when this returns: before anybody else is enrolled.

        Raises:
            StoreError: it cannot be written.
        """
        record = {"key": key, "rejections": [asdict(rejection) for rejection in rejections]}
        try:
            with open(self._fd, "ab", closefd=False) as file:
                file.write(f"{json.dumps(record)}\n".encode())
            os.fsync(self._fd)
        except OSError as error:
            raise self._problem(error) from error

    def forget(self) -> None:
        """The run has come to its end."""
        with suppress(OSError):
            self.path.unlink()

    def _open(self) -> int:
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise self._problem(error) from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            raise UnavailableError(
                f"{self.path}: another `kiosk enroll --from-dir` is under way; wait for its end"
            ) from None
        return fd

    def _read(self) -> dict[str, list[Rejection]]:
        """All that is whole; a line that a power cut left unfinished is cut off, lest the next one continues it."""
        records: dict[str, list[Rejection]] = {}
        whole = 0
        with open(self._fd, "rb", closefd=False) as file:
            for line in file:
                record = _parse(line)
                if record is None:
                    break
                whole += len(line)
                records[record[0]] = record[1]
        os.ftruncate(self._fd, whole)
        # That the file exists is to outlive a power cut, too.
        folder = os.open(self.path.parent, os.O_RDONLY | os.O_CLOEXEC)
        os.fsync(folder)
        os.close(folder)
        return records

    def _problem(self, error: OSError) -> Exception:
        what = f"{self.path}: {(error.strerror or str(error)).lower()}"
        if isinstance(error, PermissionError):
            return PermissionDeniedError(f"{what}; run as the user who owns it, or change its permissions")
        return StoreError(f"{what}; free some space, or choose another store.path")


def _parse(line: bytes) -> tuple[str, list[Rejection]] | None:
    if not line.endswith(b"\n"):
        return None
    try:
        record: Any = json.loads(line)
        found = [Rejection(**{**one, "photos": tuple(one["photos"])}) for one in record["rejections"]]
        return str(record["key"]), found
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
