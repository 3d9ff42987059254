"""Surfaces that fail on purpose: what the harness must notice."""

from __future__ import annotations

import ctypes
import random
import threading
import time
from abc import abstractmethod
from typing import Any, ClassVar

from fuzz.surfaces import TAKEN, Surface


class _Broken(Surface):
    limit_s: ClassVar[float] = 0.5

    def seeds(self) -> list[bytes]:
        return [b"fine"]

    def damaged(self, rng: random.Random, seeds: list[bytes]) -> bytes:  # noqa: ARG002
        """By its number in this worker; the next one counts anew."""
        self._number = getattr(self, "_number", -1) + 1
        return b"bad" if self._number in self._bad else b"fine"

    _bad: ClassVar[frozenset[int]] = frozenset({2, 5})

    def check(self, data: bytes) -> str:
        if data == b"bad":
            self.fail()
        return TAKEN

    @abstractmethod
    def fail(self) -> None:
        """Go wrong in this surface's way."""


class _Crash(_Broken):
    name = "broken-crash"
    _bad = frozenset({2})

    def fail(self) -> None:
        ctypes.string_at(0)


class _Hang(_Broken):
    name = "broken-hang"
    _bad = frozenset({2})

    def fail(self) -> None:
        time.sleep(60)


class _Error(_Broken):
    name = "broken-error"

    def fail(self) -> None:
        raise ZeroDivisionError


class _Thread(_Broken):
    name = "broken-thread"

    def fail(self) -> None:
        def end() -> None:
            raise ValueError("in a thread")

        thread = threading.Thread(target=end)
        thread.start()
        thread.join()


class _Memory(_Broken):
    name = "broken-memory"

    def fail(self) -> None:
        kept: Any = bytearray(80 << 20)
        kept[:: 1 << 12] = b"x" * len(kept[:: 1 << 12])


BROKEN: dict[str, type[Surface]] = {surface.name: surface for surface in (_Crash, _Hang, _Error, _Thread, _Memory)}
