"""Installed bundles on the disk: put there and taken away so that no half one is ever found."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import AbstractContextManager
from pathlib import Path

from kiosk.bundle import Bundle, read_bundle
from kiosk.errors import PermissionDeniedError, StoreError

_FILES = ("manifest.json", "model.tflite")
_OPTIONAL_FILES = ("report.md",)


def delete_bundle(target: Path, logged: AbstractContextManager[None]) -> None:
    """Out of sight first, so that no half-deleted bundle is ever found. ``logged``: around the moment it goes.

    Raises:
        KioskError: it is still there, whatever failed.
    """
    try:
        with tempfile.TemporaryDirectory(prefix=".remove-", dir=target.parent) as work:
            _exchange(None, target, Path(work) / target.name, logged)
    except PermissionError as error:
        raise PermissionDeniedError(f"{target}: cannot be deleted; run as the user who owns the store") from error
    except OSError as error:
        raise StoreError(f"{target}: cannot be deleted: {error.strerror}") from error


def copy_bundle(bundle: Bundle, target: Path, logged: AbstractContextManager[None]) -> None:
    """Copy beside the target, verify the copy, then put it in place. ``logged``: around that moment.

    Raises:
        KioskError: the target is as it was, whatever failed.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(prefix=".install-", dir=target.parent) as work:
            copy = Path(work) / target.name
            copy.mkdir(mode=0o755)
            _copy_files(bundle.folder, copy)
            read_bundle(copy)
            _exchange(copy, target, Path(work) / "old", logged)
    except PermissionError as error:
        raise PermissionDeniedError(f"{target}: cannot be written; run as the user who owns the store") from error
    except OSError as error:
        raise StoreError(f"{target}: cannot be written: {error.strerror}") from error


def _copy_files(source: Path, copy: Path) -> None:
    for name in (*_FILES, *_OPTIONAL_FILES):
        if name in _FILES or (source / name).is_file():
            shutil.copyfile(source / name, copy / name)
            with (copy / name).open("rb") as file:
                os.fsync(file.fileno())


def _exchange(new: Path | None, target: Path, old: Path, logged: AbstractContextManager[None]) -> None:
    """Move what is at the target to ``old`` and the new one, if any, there; back again when anything fails."""
    try:
        with logged:
            if target.exists():
                target.rename(old)
            if new is not None:
                new.rename(target)
    except BaseException:
        if new is not None and target.exists() and not new.exists():
            target.rename(new)
        if old.exists():
            old.rename(target)
        raise
