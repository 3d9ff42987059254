"""Installed bundles on the disk: put there and taken away so that no half one is ever found."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from kiosk.bundle import Bundle, read_bundle
from kiosk.errors import PermissionDeniedError, StoreError

_FILES = ("manifest.json", "model.tflite")
_OPTIONAL_FILES = ("report.md",)


def delete_bundle(target: Path) -> None:
    """Out of sight first, so that no half-deleted bundle is ever found."""
    try:
        with tempfile.TemporaryDirectory(prefix=".remove-", dir=target.parent) as work:
            target.rename(Path(work) / target.name)
    except PermissionError as error:
        raise PermissionDeniedError(f"{target}: cannot be deleted; run as the user who owns the store") from error
    except OSError as error:
        raise StoreError(f"{target}: cannot be deleted: {error.strerror}") from error


def copy_bundle(bundle: Bundle, target: Path) -> None:
    """Copy beside the target, verify the copy, then put it in place."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(prefix=".install-", dir=target.parent) as work:
            copy = Path(work) / target.name
            copy.mkdir(mode=0o755)
            _copy_files(bundle.folder, copy)
            read_bundle(copy)
            _put_in_place(copy, target, Path(work) / "old")
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


def _put_in_place(copy: Path, target: Path, old: Path) -> None:
    if target.exists():
        target.rename(old)
    try:
        copy.rename(target)
    except OSError:
        if old.exists():
            old.rename(target)
        raise
