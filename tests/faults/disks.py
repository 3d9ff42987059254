"""An ext4 file system in a file whose power can be cut: what was not flushed is gone.

``EXT4_IOC_SHUTDOWN`` stops all writing at once and throws away what the page cache and the journal hold in memory
(xfstests' ``godown`` does the same). Mounting again replays the journal, as after a real power cut.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from broker import wait_for

_SEARCH_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
# _IOR('X', 125, __u32), fs/ext4/ext4.h; the flag: EXT4_GOING_FLAGS_NOLOGFLUSH.
_EXT4_IOC_SHUTDOWN = 0x8004587D
_NO_LOG_FLUSH = 2
_SIZE_BYTES = 128 * 1024 * 1024


class Disk:
    """``folder`` holds the image and, while there is power, the mount point ``root``."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.root = folder / "mounted"
        self._image = folder / "disk.img"
        self.root.mkdir(exist_ok=True)

    def format(self, block_bytes: int = 4096) -> None:
        """A new, empty file system. With blocks of 1024 bytes a page of SQLite's can be written in part."""
        with self._image.open("wb") as image:
            image.truncate(_SIZE_BYTES)
        _run("mkfs.ext4", "-q", "-F", "-b", str(block_bytes), str(self._image))

    def mount(self) -> None:
        assert not os.path.ismount(self.root)
        _run("mount", "-o", "loop,noatime", str(self._image), str(self.root))
        assert os.path.ismount(self.root)

    def cut_power(self) -> None:
        """Nothing written from here on, or not flushed before, ever reaches the image."""
        fd = os.open(self.root, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, _EXT4_IOC_SHUTDOWN, struct.pack("I", _NO_LOG_FLUSH))
        finally:
            os.close(fd)

    def unmount(self) -> None:
        """Fails if anything still holds it: a file system not unmounted would be found again as it was in memory."""
        # Something that looks at every new disk may have it open for a moment.
        wait_for(self._try_unmount, 5, what=f"the unmounting of {self.root}")
        assert not os.path.ismount(self.root)
        wait_for(self._is_detached, 5, what=f"the release of {self._image}")

    def _try_unmount(self) -> bool:
        return (
            subprocess.run(["umount", str(self.root)], capture_output=True, check=False, env=_environment()).returncode
            == 0
        )

    def _is_detached(self) -> bool:
        return str(self._image) not in _run("losetup", "--list", "--noheadings", "--output", "BACK-FILE")

    def written_bytes(self) -> int:
        """By the file system to its device, so far; what is still in memory comes first."""
        os.sync()
        device = _run("findmnt", "--noheadings", "--output", "SOURCE", str(self.root)).strip()
        # Documentation/block/stat.rst: the seventh field counts sectors of 512 bytes.
        return int(Path(f"/sys/block/{Path(device).name}/stat").read_text().split()[6]) * 512

    def release(self) -> None:
        """After a failed test, too."""
        if os.path.ismount(self.root):
            subprocess.run(["umount", "--lazy", str(self.root)], check=False, env=_environment())


def why_no_power_can_be_cut() -> str | None:
    """What this machine lacks, None when it lacks nothing."""
    if not sys.platform.startswith("linux"):
        return "cutting the power of a file system needs Linux"
    if os.geteuid() != 0:
        return "cutting the power of a file system needs root: sudo .venv/bin/python -m pytest tests/faults"
    for program in ("mkfs.ext4", "mount", "umount", "losetup", "findmnt"):
        if shutil.which(program, path=_SEARCH_PATH) is None:
            return f"cutting the power of a file system needs {program}"
    if subprocess.run(["losetup", "--find"], capture_output=True, check=False, env=_environment()).returncode:
        return "cutting the power of a file system needs a loop device, and this machine (a container?) gives none"
    return None


@contextlib.contextmanager
def disk_with_a_plug(folder: Path) -> Iterator[Disk]:
    """A disk for a test, which is skipped where there can be none."""
    reason = why_no_power_can_be_cut()
    if reason is not None:
        pytest.skip(reason)
    disk = Disk(folder)
    try:
        yield disk
    finally:
        disk.release()


def _run(*command: str) -> str:
    result = subprocess.run(command, capture_output=True, encoding="utf-8", check=False, env=_environment())
    assert result.returncode == 0, f"{' '.join(command)}: {result.stderr}"
    return result.stdout


def _environment() -> dict[str, str]:
    return {**os.environ, "PATH": _SEARCH_PATH}
