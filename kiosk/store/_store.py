"""The store as the rest of the program sees it: one file, one connection, all tables."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from datetime import date
from pathlib import Path
from types import TracebackType
from typing import Self

from kiosk import integrity
from kiosk.biometrics import ModelId
from kiosk.errors import KeyFileError, KioskError
from kiosk.gallery import Gallery
from kiosk.signatures import EventSigner
from kiosk.store._age import Age
from kiosk.store._audit import AuditLog
from kiosk.store._calibrations import Calibrations
from kiosk.store._codes import Codes
from kiosk.store._corrections import CorrectionsTable
from kiosk.store._files import free_bytes
from kiosk.store._keys import KeyFile
from kiosk.store._limits import DEFAULT_LIMITS, WARN_SHARE, Limits, StoreCondition
from kiosk.store._manual import ManualEntries
from kiosk.store._recognitions import Recognitions
from kiosk.store._rejections import Rejections
from kiosk.store._transfers import Transfers


class Store(Transfers, ManualEntries, Recognitions, Rejections, Calibrations, CorrectionsTable, Age, Codes, AuditLog):
    """Thread-safe. Open it with :meth:`open`; use it as a context manager or call :meth:`close`."""

    @classmethod
    def open(
        cls,
        path: Path | str,
        *,
        writable: bool = True,
        verified: bool = False,
        limits: Limits = DEFAULT_LIMITS,
        keys: KeyFile | None = None,
        signer: EventSigner | None = None,
        backs_up: bool = True,
    ) -> Self:
        """Open the database, creating or upgrading it when ``writable``.

        With ``verified``, as the daemon opens it, everything in it is verified first, and a damaged store restored from
        the newest good backup; ``restored`` tells. ``keys``: of the templates; by default beside the database.
        ``signer``: signs the events that are committed here, and those that a restore makes anew; None: nobody does.
        ``backs_up``: take a backup before an upgrade.

        Raises:
            KeyFileError: the store is of a version that did not encrypt templates, and now they cannot be.
            StoreError: not a database, damaged, of a newer version, another program's, missing, disk full.
            PermissionDeniedError: file or folder may not be read or written.
        """
        store = cls(Path(path), writable=writable, keys=keys)
        store.limits = limits
        store.signer = signer
        store.backs_up = backs_up
        store.process = "daemon" if verified else "command"
        store._open(verified=verified)
        store._trouble.quiet = not verified
        try:
            store.inherit_outbox()
            if writable:
                store._settle_keys()
        except KioskError:
            store.close()
            raise
        return store

    def _settle_keys(self) -> None:
        """After an upgrade, and when the key file is to be sealed from now on: leave nothing of before."""
        # A key that cannot be had is told to whoever asks for templates.
        with contextlib.suppress(KeyFileError):
            if self._give_up_bare_key() or self._adopting():
                self.finish_erasures()

    def rekey(self, master_file: Path | None) -> bool:
        """Give the templates a new key, as an erasure does, and seal the key file with this master secret from now on;
        None: with nothing. False where the old key cannot go yet: :attr:`purge_fault` says why.

        Raises:
            KeyFileError: there is no key, it cannot be had, or the master secret is of no use.
            StoreError: it cannot be written.
        """
        before = self.keys
        try:
            self._begin_rekey(master_file)
        except KioskError:
            if self.keys is not before:
                # Nothing is on record of it: the file is to say again what it said.
                ring = self.keys.read()
                before.write(ring.keys, number=ring.number, adopting=ring.adopting)
                self.keys = before
            raise
        return self.finish_erasures()

    def gallery(self, model_id: ModelId, *, today: date | None = None) -> Gallery:
        """All subjects with templates of this model, and what was measured at this door for it.

        ``today``: whose consent ended before that day is left out; None: the clock cannot be trusted, and nobody is.
        """
        calibration = self.calibration(model_id)
        shift = 0.0 if calibration is None else calibration.score_shift
        lapsed = frozenset() if today is None else self.lapsed(today)
        templates = (template for template in self.templates(model_id) if template.subject_id not in lapsed)
        return Gallery(model_id, templates, score_shift=shift, lapsed=lapsed)

    def row_counts(self) -> dict[str, int]:
        """How many rows each table has."""
        with self._reading() as db:
            return {
                table: db.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0]  # noqa: S608 - names from the code
                for table in integrity.COLUMNS
            }

    def schema_version(self) -> int:
        """Of the file: how many migrations it has behind it."""
        (row,) = self._rows("PRAGMA user_version")
        return int(row["user_version"])

    def condition(self) -> StoreCondition:
        """How the store is at this moment. Cheap; never raises."""
        fault, restored, unsent = self._trouble.fault or self.backup_fault, None, 0
        try:
            last = self.last_restore()
            # What was damaged may name a subject, in the mark of an earlier version.
            restored = None if last is None else replace(last, problem="see `kiosk check`").describe()
            fault = fault or self.refusal()
            waiting = self.unsent()
            unsent = waiting.pending + waiting.parked
        except KioskError as error:
            fault = fault or str(error)
        share = unsent / self.limits.max_unsent
        if fault is None and share >= WARN_SHARE:
            fault = f"{unsent} events wait to be sent; at {self.limits.max_unsent} check-ins are refused"
        newest = self.backups.all()[:1]
        return StoreCondition(fault, self._free_mib(), newest[0].taken_at if newest else None, restored, share)

    @property
    def damaged(self) -> bool:
        """Whether damage has shown since it was opened; only a start with ``verified`` mends it."""
        return self._trouble.damaged

    def _free_mib(self) -> int:
        try:
            return free_bytes(self.path) >> 20
        except OSError:
            return -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()
