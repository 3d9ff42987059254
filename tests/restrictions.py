"""A command under those restrictions of the service's unit that could slow or stop the model runtime, without systemd.

By the kernel's own means, as systemd does it: system calls by seccomp, memory and privileges by prctl, /proc by a mount
in namespaces of its own. What only systemd can give (users, devices, the file system) is measured where it runs, by
``benchmarks/sandbox.py``.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import pytest

REPO = Path(__file__).resolve().parent.parent
Settings = Mapping[str, list[str]]

_UNAVAILABLE = 123
"""No exit code of the kiosk, and none that a shell gives."""
# Constants of linux/prctl.h and seccomp.h.
_PR_SET_NO_NEW_PRIVS, _PR_SET_MDWE = 38, 65
_ALLOW, _ERRNO_EPERM = 0x7FFF0000, 0x00050000 | 1
# Nobody's privileges are needed for a /proc of one's own: in a user namespace everybody is root.
_WITH_PROC = (
    *("unshare", "--map-root-user", "--mount", "--pid", "--fork"),
    *("sh", "-c", f'mount -t proc -o "$1" proc /proc || exit {_UNAVAILABLE}; shift; exec "$@"', "sh"),
)


def run(settings: Settings, command: Sequence[str | Path], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder under settings of a unit's [Service] section.

    Skips the test where this machine has not what they need.
    """
    process = {
        "memory": "yes" in settings.get("MemoryDenyWriteExecute", []),
        "privileges": "yes" in settings.get("NoNewPrivileges", []),
        "calls": sorted(_allowed_calls(settings.get("SystemCallFilter", []))),
    }
    hidden = f"hidepid={settings.get('ProtectProc', ['off'])[-1]}"
    hidden += ",subset=pid" if "pid" in settings.get("ProcSubset", []) else ""
    run = subprocess.run(
        [*_WITH_PROC, hidden, sys.executable, __file__, json.dumps(process), *map(str, command)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(REPO)},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    if run.returncode == _UNAVAILABLE or run.stderr.startswith("unshare: "):
        pytest.skip(f"this machine cannot restrict a process like this: {run.stderr.strip()}")
    return run


def _allowed_calls(filters: Iterable[str]) -> set[str]:
    """The system calls that SystemCallFilter= lines leave, the first of which lists what is allowed."""
    allowed: set[str] = set()
    for line in filters:
        named = set[str]().union(*(_expand(name) for name in line.removeprefix("~").split()))
        allowed = allowed - named if line.startswith("~") else allowed | named
    return allowed


def _expand(name: str) -> set[str]:
    if not name.startswith("@"):
        return {name}
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not on this machine")
    listed = subprocess.run(
        ["systemd-analyze", "syscall-filter", name], capture_output=True, encoding="utf-8", check=True
    ).stdout
    members = [line.strip() for line in listed.splitlines()[1:]]
    return set[str]().union(*(_expand(member) for member in members if member and not member.startswith("#")))


# In the child


def _restrict(memory: bool, privileges: bool, calls: list[str]) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if memory and libc.prctl(_PR_SET_MDWE, 1, 0, 0, 0):
        _give_up("MemoryDenyWriteExecute= needs Linux 6.3")
    if privileges and libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        _give_up("NoNewPrivileges= is refused")
    if calls:
        _filter_calls(calls)


def _filter_calls(calls: list[str]) -> None:
    """Refuse all but these, those apart that this processor does not have."""
    try:
        seccomp: Any = ctypes.CDLL("libseccomp.so.2")
    except OSError:
        _give_up("libseccomp.so.2 is missing")
    seccomp.seccomp_init.restype = ctypes.c_void_p
    rules = ctypes.c_void_p(seccomp.seccomp_init(_ERRNO_EPERM))
    for name in calls:
        seccomp.seccomp_rule_add(rules, _ALLOW, seccomp.seccomp_syscall_resolve_name(name.encode()), 0)
    if seccomp.seccomp_load(rules):
        _give_up("SystemCallFilter= is refused")


def _give_up(why: str) -> NoReturn:
    sys.stderr.write(f"{why}\n")
    sys.exit(_UNAVAILABLE)


if __name__ == "__main__":
    _restrict(**json.loads(sys.argv[1]))
    os.execvp(sys.argv[2], sys.argv[2:])  # noqa: S606 - this process is what is restricted
