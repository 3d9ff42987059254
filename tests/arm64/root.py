"""A Debian for arm64 on this machine: made once, then entered under qemu, each time as if it were new.

Every command inside gets namespaces of its own for mounts and processes: when it ends, however it ends, the kernel
takes both away, and nothing is left to unmount. Only the registration of qemu with the kernel is seen from outside; it
is removed when :func:`registered_qemu` ends.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

QEMU = Path("/usr/bin/qemu-aarch64-static")
INCLUDED = ("ca-certificates", "mosquitto", "openssl", "python3", "python3-venv")
PYTHONS = {"bookworm": "3.11", "trixie": "3.13"}

_OWN_MOUNTS = "ARM64_OWN_MOUNTS"
_BINFMT = Path("/proc/sys/fs/binfmt_misc")
# ELF, 64 bit, little endian, an executable or a library for aarch64. F: the kernel keeps qemu open, so that it is found
# inside a root that does not have it.
_MAGIC = (
    r"\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00"
    r":\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff"
)
_PREFIX = "kiosk-arm64-"

# The model runtime reads the core's abilities from this file, and would find those of the PC under qemu.
_CORE = """\
processor\t: {core}
BogoMIPS\t: 108.00
Features\t: {features}
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: {variant}
CPU part\t: {part}
CPU revision\t: {revision}

"""


@dataclass(frozen=True, slots=True)
class Board:
    """A computer whose processor is emulated: qemu's name for its core, and what Linux says of it there."""

    core: str
    model: str
    features: str
    variant: str
    part: str
    revision: int

    @property
    def cpuinfo(self) -> str:
        values = {"features": self.features, "variant": self.variant, "part": self.part, "revision": self.revision}
        return "".join(_CORE.format(core=core, **values) for core in range(4)) + f"Model\t\t: {self.model}\n"


_PI5 = "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"
BOARDS = {
    "pi4": Board("cortex-a72", "Raspberry Pi 4 Model B Rev 1.4", "fp asimd evtstrm crc32 cpuid", "0x0", "0xd08", 3),
    "pi5": Board("cortex-a76", "Raspberry Pi 5 Model B Rev 1.0", _PI5, "0x4", "0xd0b", 1),
}
"""ARMv8.0, and ARMv8.2 with dot products, for which the model runtime has other kernels."""

# $1: the folder the root is mounted on; $2: what it consists of, topmost first; $3: where changes go, or, without $2,
# the root itself; $4: cpuinfo. Then pairs of a folder inside and the folder that is shown there, up to "--".
_ENTER = """\
set -eu
mount=$1 below=$2 changes=$3 cpuinfo=$4
shift 4
if [ -n "$below" ]; then
    mount -t overlay -o "lowerdir=$below,upperdir=$changes/upper,workdir=$changes/work" overlay "$mount"
else
    mount --bind "$changes" "$mount"
fi
mount -t proc proc "$mount/proc"
mount --bind "$cpuinfo" "$mount/proc/cpuinfo"
mount -t sysfs -o ro sysfs "$mount/sys"
mkdir -p "$mount/dev/shm"
mount -t tmpfs tmpfs "$mount/dev/shm"
while [ "$1" != -- ]; do
    mkdir -p "$mount$1"
    mount --bind "$2" "$mount$1"
    mount -o remount,bind,ro "$mount$1"
    shift 2
done
shift
exec chroot "$mount" "$@"
"""


class RootError(Exception):
    """An arm64 root cannot be made or entered here; one line says why."""


@dataclass(frozen=True, slots=True)
class Root:
    """A root, and the folder that what is changed in it goes to.

    ``below``: what it consists of, topmost first; empty where ``changes`` is all of it. ``shown``: folders of this
    machine that are seen inside, read only, by their paths there.
    """

    changes: Path
    below: tuple[Path, ...] = ()
    shown: Mapping[str, Path] = field(default_factory=dict)
    board: Board = BOARDS["pi4"]

    def run(self, *command: str, log: Path | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command inside to its end; what it prints is returned, or added to ``log``.

        Raises:
            RootError: it failed, and ``check`` is set.
        """
        with tempfile.TemporaryDirectory(prefix="kiosk-arm64-") as folder, contextlib.ExitStack() as stack:
            mount, cpuinfo = Path(folder, "root"), Path(folder, "cpuinfo")
            mount.mkdir()
            cpuinfo.write_text(self.board.cpuinfo, encoding="ascii")
            output = subprocess.PIPE if log is None else stack.enter_context(log.open("a", encoding="utf-8"))
            result = subprocess.run(
                [
                    # Nothing of it outlives this process, even where that is killed.
                    *("setpriv", "--pdeathsig", "KILL"),
                    *("unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child"),
                    *("sh", "-c", _ENTER, "enter", str(mount), ":".join(map(str, self.below)), str(self.changes)),
                    *(str(cpuinfo), *(str(part) for pair in self.shown.items() for part in pair), "--"),
                    *command,
                ],
                env=_environment(self.board),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.PIPE if log is None else subprocess.STDOUT,
                encoding="utf-8",
                errors="replace",
                check=False,
            )
        if check and result.returncode:
            said = log.read_text(encoding="utf-8") if log else result.stdout + result.stderr
            last = "\n".join(said.strip().splitlines()[-15:])
            raise RootError(f"in the arm64 root: {' '.join(command[:4])}: exit code {result.returncode}:\n{last}")
        return result

    def path(self, inside: str) -> Path:
        """Where a file that was written inside is found from outside, and may be put."""
        return (self.changes / "upper" if self.below else self.changes) / inside.lstrip("/")

    def layer(self, changes: Path, **shown: Path) -> Root:
        """A root on top of this one: what is changed in it goes to ``changes``, which is emptied."""
        shutil.rmtree(changes, ignore_errors=True)
        for name in ("upper", "work"):
            (changes / name).mkdir(parents=True)
        content = self.path("/")
        return Root(changes, (content, *self.below), {f"/{name}": path for name, path in shown.items()}, self.board)


def _environment(board: Board) -> dict[str, str]:
    """A fresh login's, with the way to the package servers that this machine has."""
    kept = {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}
    return {
        **kept,
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/root",
        "LANG": "C.UTF-8",
        "DEBIAN_FRONTEND": "noninteractive",
        "QEMU_CPU": board.core,
    }


def enter_own_mounts() -> None:
    """Start this program anew where what it mounts is seen by nobody else, and ends with it; once.

    Raises:
        RootError: not root.
    """
    if os.environ.get(_OWN_MOUNTS) == str(os.getpid()):
        return
    _check_rights()
    os.environ[_OWN_MOUNTS] = str(os.getpid())
    os.execvp("unshare", ["unshare", "--mount", "--propagation", "private", sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - our own program


@contextlib.contextmanager
def registered_qemu() -> Iterator[None]:
    """Have the kernel run programs for arm64 by qemu, as long as this lasts. Mounts what it needs for that.

    Raises:
        RootError: not root, or a program is missing.
    """
    _check_rights()
    missing = [name for name in ("debootstrap", str(QEMU)) if shutil.which(name) is None]
    if missing:
        raise RootError(f"{missing[0]} is missing; type: apt-get install debootstrap qemu-user-static")
    subprocess.run(["mount", "-t", "binfmt_misc", "binfmt_misc", str(_BINFMT)], check=True)
    _remove_stale()
    entry = _BINFMT / f"{_PREFIX}{os.getpid()}"
    (_BINFMT / "register").write_text(f":{entry.name}:M::{_MAGIC}:{QEMU}:F", encoding="ascii")
    try:
        yield
    finally:
        entry.write_text("-1", encoding="ascii")


def _check_rights() -> None:
    if os.geteuid() != 0:
        raise RootError("an arm64 root needs root's rights; type: sudo .venv/bin/just arm64")


def _remove_stale() -> None:
    """Take away what a run has left that was killed."""
    for entry in _BINFMT.glob(f"{_PREFIX}*"):
        if not Path("/proc", entry.name.removeprefix(_PREFIX)).exists():
            entry.write_text("-1", encoding="ascii")


def make_root(folder: Path, suite: str) -> float:
    """Make a root in ``folder`` unless it is there; returns the seconds it took, once.

    Raises:
        RootError: the packages cannot be had, or one does not install.
    """
    took = folder.with_name(f"{folder.name}.seconds")
    if took.exists():
        return float(took.read_text(encoding="ascii"))
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    log = folder.with_name(f"{folder.name}.log")
    log.unlink(missing_ok=True)
    started_s = time.monotonic()
    with log.open("w", encoding="utf-8") as file:
        command = ["debootstrap", "--arch=arm64", "--foreign", "--variant=minbase", f"--include={','.join(INCLUDED)}"]
        code = subprocess.run([*command, suite, str(folder)], stdout=file, stderr=file, check=False).returncode
    if code:
        raise RootError(f"debootstrap cannot make {suite} for arm64: see {log}")
    # A root that is thrown away after a power cut anyway need not be safe on the disk after every file.
    unsafe = folder / "etc/dpkg/dpkg.cfg.d/unsafe"
    unsafe.parent.mkdir(parents=True, exist_ok=True)
    unsafe.write_text("force-unsafe-io\n", encoding="ascii")
    Root(folder).run("/debootstrap/debootstrap", "--second-stage", log=log)
    unsafe.unlink()
    (folder / "etc/hosts").write_text("127.0.0.1 localhost\n", encoding="ascii")
    seconds = time.monotonic() - started_s
    took.write_text(f"{seconds:.0f}\n", encoding="ascii")
    return seconds
