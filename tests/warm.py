"""Commands from a Python that has its libraries loaded already: half of a short command's time, and always the same.

One process waits with libraries of others imported and nothing of the kiosk; each command is a fork of it, which from
there on is ``python -m kiosk``: it imports and runs the kiosk's own code, and ends as any Python does.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# OpenCV and the model runtimes are not among them: the kiosk sets what they read when they are loaded.
_LIBRARIES = (
    "click",
    "cryptography.hazmat.primitives.asymmetric.ed25519",
    "cryptography.hazmat.primitives.ciphers.aead",
    "numpy.typing",
    "paho.mqtt.client",
    "pydantic.json_schema",
    "pydantic.types",
    "sqlite_utils",
    "tqdm",
    "yaml",
)
_PIPE_BYTES = 65_536
_MESSAGE_BYTES = 200_000
_NUMBER = struct.Struct("i")
# Whatever else a process finds in its environment may be read before the kiosk's first line.
_READ_LATE = ("KIOSK_", "PYTEST_")


def can_run(environment: Mapping[str, str], stdin: str) -> bool:
    """Whether a command is the same here as started anew: Python and the libraries read no other variables."""
    return len(stdin.encode()) < _PIPE_BYTES and _read_early(environment) == _read_early(
        os.environ | {"PYTHONPATH": environment.get("PYTHONPATH", "")}
    )


def run(
    arguments: Sequence[str], *, environment: Mapping[str, str], folder: Path, stdin: str, timeout_s: float
) -> subprocess.CompletedProcess[str]:
    """``kiosk ARGUMENTS`` to its end, as ``subprocess.run`` would."""
    nursery = _nursery(_read_early(environment))
    with contextlib.ExitStack() as stack:
        out, err = (stack.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8")) for _ in range(2))
        told, status = os.pipe()
        stack.callback(os.close, told)
        given, feed = os.pipe()
        os.write(feed, stdin.encode())
        os.close(feed)
        command = {"arguments": arguments, "environment": dict(environment), "folder": str(folder)}
        try:
            nursery.start(command, (given, out.fileno(), err.fileno(), status))
        finally:
            os.close(given)
            os.close(status)
        pid = _read_number(told, 10)
        try:
            returncode = _read_number(told, timeout_s)
        except TimeoutError:
            os.kill(pid, signal.SIGKILL)
            raise subprocess.TimeoutExpired(["kiosk", *arguments], timeout_s) from None
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(["kiosk", *arguments], returncode, out.read(), err.read())


def _read_early(environment: Mapping[str, str]) -> frozenset[tuple[str, str]]:
    return frozenset(item for item in environment.items() if not item[0].startswith(_READ_LATE))


def _read_number(pipe: int, timeout_s: float) -> int:
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        if not selector.select(timeout_s):
            raise TimeoutError
    data = os.read(pipe, _NUMBER.size)
    assert data, "the process that commands are forked from has ended"
    number: int = _NUMBER.unpack(data)[0]
    return number


class _Nursery:
    """The waiting process; it ends when this one does."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _MESSAGE_BYTES * 2)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )

    def start(self, command: Mapping[str, Any], files: Sequence[int]) -> None:
        """Fork; the files are the command's stdin, stdout and stderr, and where its pid and exit code are told."""
        socket.send_fds(self._control, [json.dumps(command).encode()], files)


@functools.cache
def _nursery(environment: frozenset[tuple[str, str]]) -> _Nursery:
    return _Nursery(dict(environment))


# In the waiting process


@dataclass
class _Command:
    arguments: list[str]
    environment: dict[str, str]
    folder: str

    def become(self, files: Iterable[int]) -> None:
        """Run it in this process; does not return."""
        for number, file in enumerate(files):
            os.dup2(file, number)
            os.close(file)
        os.environ.clear()
        os.environ.update(self.environment)
        os.chdir(self.folder)
        sys.path[0] = self.folder
        sys.argv[1:] = self.arguments
        runpy.run_module("kiosk", run_name="__main__", alter_sys=True)


def _wait_for_commands(control: socket.socket) -> tuple[_Command, list[int]] | None:
    """Fork for each; returns in the forks with what to run, and here with None when nobody is left to ask."""
    running: dict[int, tuple[int, int]] = {}
    with selectors.DefaultSelector() as selector:
        selector.register(control, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fd in running:
                    selector.unregister(key.fd)
                    pid, status = running.pop(key.fd)
                    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                    _tell(status, code)
                    os.close(status)
                    os.close(key.fd)
                    continue
                message, files, _, _ = socket.recv_fds(control, _MESSAGE_BYTES, 4)
                if not message:
                    return None
                pid = os.fork()
                if pid == 0:
                    for other in (files[3], *running, *(status for _, status in running.values())):
                        os.close(other)
                    control.close()
                    return _Command(**json.loads(message)), files[:3]
                for file in files[:3]:
                    os.close(file)
                _tell(files[3], pid)
                ended = os.pidfd_open(pid)
                running[ended] = pid, files[3]
                selector.register(ended, selectors.EVENT_READ)


def _tell(pipe: int, number: int) -> None:
    # Whoever asked may have lost patience.
    with contextlib.suppress(BrokenPipeError):
        os.write(pipe, _NUMBER.pack(number))


def _main() -> None:
    for library in _LIBRARIES:
        importlib.import_module(library)
    gc.collect()
    gc.freeze()
    with warnings.catch_warnings():
        # Python warns of threads that a fork loses; the only ones are OpenBLAS's, which sees to that itself.
        warnings.simplefilter("ignore")
        command = _wait_for_commands(socket.socket(fileno=int(sys.argv[1])))
    if command is not None:
        command[0].become(command[1])


if __name__ == "__main__":
    _main()
