"""Installed bundles on the disk: put there and taken away so that there is a whole one at any moment, power cut or not.

A new build is complete, verified and on the disk before it changes places with the installed one, by one system call.
The former one is kept first, under a second name for the same files.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

from kiosk.bundle import Bundle, read_bundle
from kiosk.bundle_choice import changing, former_folder, read_notes
from kiosk.errors import InputError, ModelError, PermissionDeniedError, StoreError, UnavailableError
from kiosk.files import sync
from kiosk.model_start import WORK_PREFIXES, sweep

_FILES = ("manifest.json", "model.tflite")
_OPTIONAL_FILES = ("report.md",)
_INSTALL, _REMOVE = WORK_PREFIXES
# linux/fcntl.h, linux/fs.h
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def delete_bundle(target: Path, logged: AbstractContextManager[None]) -> None:
    """Out of sight first, so that no half-deleted bundle is ever found; the build it replaced goes, too.

    ``logged``: around the moment it goes.

    Raises:
        KioskError: it is still there, whatever failed.
    """
    with _changing(target, "deleted"), tempfile.TemporaryDirectory(prefix=_REMOVE, dir=target.parent) as work:
        former = former_folder(target.parent, target.name)
        with ExitStack() as undo:
            with logged:
                _rename(target, Path(work) / "installed", undo)
                if former.exists():
                    _rename(former, Path(work) / "former", undo)
                sync(target.parent)
            undo.pop_all()


def copy_bundle(bundle: Bundle, target: Path, logged: AbstractContextManager[None]) -> None:
    """Copy beside the target, verify the copy, then put it in place. ``logged``: around that moment.

    A build of this name that stands there is kept as the former one, unless it is damaged, refused or the same.

    Raises:
        KioskError: everything is as it was, whatever failed.
    """
    with _changing(target, "written"), tempfile.TemporaryDirectory(prefix=_INSTALL, dir=target.parent) as folder:
        work = Path(folder)
        copy, kept, former = work / target.name, work / "kept", former_folder(target.parent, target.name)
        copy.mkdir(mode=0o755)
        _copy_files(bundle.folder, copy)
        if read_bundle(copy).fingerprint != bundle.fingerprint:
            raise InputError(f"{bundle.folder}: was changed while it was copied; install it again")
        if _worth_keeping(target, bundle):
            _duplicate(target, kept)
            former.parent.mkdir(mode=0o755, exist_ok=True)
        with ExitStack() as undo:
            with logged:
                if kept.exists():
                    if former.exists():
                        _rename(former, work / "before", undo)
                    _rename(kept, former, undo)
                    sync(former.parent)
                _put_in_place(copy, target, undo)
                sync(target.parent)
            undo.pop_all()


@contextmanager
def _changing(target: Path, what: str) -> Iterator[None]:
    """Be the only one who changes bundles, and tell what fails in one line."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        sweep(target.parent)
        with changing(target.parent):
            yield
    except BlockingIOError:
        raise UnavailableError(f"{target.parent}: another `kiosk model` is changing the bundles; try again") from None
    except PermissionError as error:
        raise PermissionDeniedError(f"{target}: cannot be {what}; run as the user who owns the store") from error
    except OSError as error:
        fix = "; free some space" if error.errno in {errno.ENOSPC, errno.EDQUOT} else ""
        raise StoreError(f"{target}: cannot be {what}: {error.strerror}{fix}") from error


def _copy_files(source: Path, copy: Path) -> None:
    for name in (*_FILES, *_OPTIONAL_FILES):
        if name in _FILES or (source / name).is_file():
            shutil.copyfile(source / name, copy / name)
            sync(copy / name)
    sync(copy)


def _worth_keeping(target: Path, new: Bundle) -> bool:
    try:
        installed = read_bundle(target)
    except ModelError:
        # None there, or none to go back to.
        return False
    refused = installed.fingerprint in read_notes(target.parent).refused
    return not refused and installed.fingerprint != new.fingerprint


def _duplicate(folder: Path, second: Path) -> None:
    """The same files under another folder's name, which takes no space where the file system has second names.

    Of whatever else lies there nothing is taken: a folder could not be, and a link might lead root anywhere.
    """
    second.mkdir(mode=0o755)
    for file in (folder / name for name in (*_FILES, *_OPTIONAL_FILES)):
        if not file.is_file():
            continue
        try:
            (second / file.name).hardlink_to(file)
        except OSError:
            shutil.copyfile(file, second / file.name)
            sync(second / file.name)
    sync(second)


def _rename(source: Path, target: Path, undo: ExitStack) -> None:
    source.rename(target)
    undo.callback(target.rename, source)


def _put_in_place(copy: Path, target: Path, undo: ExitStack) -> None:
    if target.exists():
        _exchange(copy, target)
        undo.callback(_exchange, copy, target)
    else:
        _rename(copy, target, undo)


def _exchange(a: Path, b: Path) -> None:
    """Give each of two folders the other's name, in one step where the file system can (ext4, f2fs, xfs, btrfs, tmpfs).

    Elsewhere there is no folder of the second name for a moment.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(_AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), _RENAME_EXCHANGE) == 0:
        return
    number = ctypes.get_errno()
    if number not in {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP}:
        raise OSError(number, os.strerror(number), str(b))
    aside = a.with_name(f"{a.name}.aside")
    b.rename(aside)
    a.rename(b)
    aside.rename(a)
