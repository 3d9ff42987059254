"""The write-ahead log as bytes: what SQLite would leave out of it without a word.

SQLite takes the frames up to the first whose checksum is wrong. After a power cut that is right: what follows was never
finished. After damage it drops check-ins that had been committed. The two can be told apart, for every transaction is
on the disk before the next one begins: whatever follows a finished transaction proves that it had been committed.
Format: https://sqlite.org/fileformat2.html#walformat
"""

from __future__ import annotations

import struct
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from kiosk.store._files import beside

_HEADER = struct.Struct(">8I")
_FRAME = struct.Struct(">6I")
_MAGICS = (0x377F0682, 0x377F0683)
PAGE_BYTES = 1024
"""Of a new store: what a check-in changes are a dozen rows in as many pages, and a card wears by the pages written."""
_PAGE_SIZES = frozenset(1 << bits for bits in range(9, 17))
_INDEX = struct.Struct("=16xI12x8s")
"""The beginning of -shm: the number of good frames (native order) and the salts of the log they are in."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One page in the log. ``pages``: size of the database after a transaction's last frame, 0 in the others."""

    number: int
    offset: int
    page: int
    pages: int


@dataclass(frozen=True, slots=True)
class WriteAheadLog:
    """The frames of the present generation, as their salts tell; those of earlier ones are left out."""

    header_sound: bool
    salts: bytes
    page_bytes: int
    frames: tuple[Frame, ...]

    @classmethod
    def read(cls, database: Path) -> Self | None:
        """The log of a database; None when there is none, or nothing in it."""
        path = beside(database, "-wal")
        content = path.read_bytes() if path.exists() else b""
        if len(content) <= _HEADER.size + _FRAME.size:
            return None
        magic, _, page_bytes, _, *rest = _HEADER.unpack_from(content)
        sound = magic in _MAGICS and _checksum(content[:24], big_endian=magic == _MAGICS[1]) == tuple(rest[2:])
        if not sound:
            page_bytes = _page_bytes(database)
        offsets = range(_HEADER.size, len(content) - page_bytes, _FRAME.size + page_bytes)
        # Each generation overwrites the log from its beginning; what is left of earlier ones is the smaller part.
        votes = Counter(_FRAME.unpack_from(content, offset)[2:4] for offset in offsets)
        salts = tuple(rest[:2]) if sound else votes.most_common(1)[0][0]
        frames = []
        for number, offset in enumerate(offsets):
            page, pages, *salts_here = _FRAME.unpack_from(content, offset)[:4]
            # One of the two is enough: the frame's header may be what is damaged.
            if salts_here[0] == salts[0] or salts_here[1] == salts[1]:
                frames.append(Frame(number, offset + _FRAME.size, page, pages))
        return cls(sound, content[16:24], page_bytes, tuple(frames))

    def committed(self) -> tuple[Frame, ...]:
        """The frames up to the end of the last transaction that has one, whatever their checksums say."""
        ends = [index for index, frame in enumerate(self.frames) if frame.pages]
        return self.frames[: ends[-1] + 1] if ends else ()

    def unfinished(self, taken: int, salts: bytes) -> bool:
        """Whether more was written than SQLite takes: by whoever was interrupted, as a rule."""
        return salts == self.salts and any(frame.number >= taken for frame in self.frames)

    def problem(self, taken: int, salts: bytes) -> str | None:
        """What is lost when SQLite has taken so many frames; None for an end as a power cut leaves it."""
        if not self.header_sound:
            return "the header of the write-ahead log is damaged"
        if salts != self.salts:
            # All of it is in the database; the next transaction overwrites it.
            return None
        beyond = [frame for frame in self.frames if frame.number >= taken]
        ends = [frame.number for frame in beyond if frame.pages]
        if ends and ends[0] != beyond[-1].number:
            return f"the write-ahead log is damaged at frame {taken + 1}, and {beyond[-1].number - taken} follow"
        return None


def _page_bytes(database: Path) -> int:
    """What the database's header says; what new stores have where it says nothing that can be."""
    with database.open("rb") as file:
        header = file.read(18)
    stated = int.from_bytes(header[16:18], "big") if len(header) == 18 else 0
    stated = 1 << 16 if stated == 1 else stated
    return stated if stated in _PAGE_SIZES else PAGE_BYTES


def frames_taken(database: Path) -> tuple[int, bytes]:
    """How many frames SQLite has found to be good, and the salts of their log; ask while a connection is open."""
    with beside(database, "-shm").open("rb") as index:
        frames, salts = _INDEX.unpack(index.read(_INDEX.size))
    return frames, salts


def _checksum(content: bytes, *, big_endian: bool) -> tuple[int, int]:
    words = struct.unpack(f"{'>' if big_endian else '<'}{len(content) // 4}I", content)
    first = second = 0
    for even, odd in zip(words[::2], words[1::2], strict=True):
        first = (first + even + second) & 0xFFFFFFFF
        second = (second + odd + first) & 0xFFFFFFFF
    return first, second
