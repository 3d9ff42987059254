"""The store as the rest of the program sees it: one file, one connection, all tables."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

from kiosk.biometrics import ModelId
from kiosk.errors import KioskError
from kiosk.gallery import Gallery
from kiosk.store._attendance import Attendance
from kiosk.store._calibrations import Calibrations
from kiosk.store._corrections import CorrectionsTable
from kiosk.store._rejections import Rejections
from kiosk.store._subjects import Subjects


class Store(Subjects, Attendance, Rejections, Calibrations, CorrectionsTable):
    """Thread-safe. Open it with :meth:`open`; use it as a context manager or call :meth:`close`."""

    @classmethod
    def open(cls, path: Path | str, *, writable: bool = True) -> Self:
        """Open the database, creating or upgrading it when ``writable``.

        Raises:
            StoreError: not a database, damaged, of a newer version, another program's, missing, disk full.
            PermissionDeniedError: file or folder may not be read or written.
        """
        store = cls(Path(path), writable=writable)
        store._open()
        try:
            store.inherit_outbox()
        except KioskError:
            store.close()
            raise
        return store

    def gallery(self, model_id: ModelId) -> Gallery:
        """All subjects with templates of this model, and what was measured at this door for it."""
        calibration = self.calibration(model_id)
        shift = 0.0 if calibration is None else calibration.score_shift
        return Gallery(model_id, self.templates(model_id), score_shift=shift)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()
