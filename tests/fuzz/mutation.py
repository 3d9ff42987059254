"""Damage to real inputs: bytes, numbers, lengths and pieces; the structure of a format where it pays."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable, Sequence

Mutator = Callable[[bytes, random.Random], bytes]

_NUMBERS = (0, 1, 2, 7, 8, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
_MOST_MUTATIONS = 6
_LARGEST = 4 << 20


def _at(data: bytes, rng: random.Random) -> int:
    """A place, half of the time near the beginning, where headers are."""
    limit = min(len(data), 256) if rng.random() < 0.5 else len(data)
    return rng.randrange(limit) if limit else 0


def flip_bits(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 8, 64])):
        if changed:
            changed[_at(data, rng)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def set_number(data: bytes, rng: random.Random) -> bytes:
    """A value at the edge of its type, little or big endian, in place of what stood there."""
    width, order = rng.choice([1, 2, 4]), rng.choice(["<", ">"])
    number = rng.choice(_NUMBERS) & ((1 << 8 * width) - 1)
    at = _at(data, rng)
    return data[:at] + struct.pack(order + {1: "B", 2: "H", 4: "I"}[width], number) + data[at + width :]


def truncate(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def delete(data: bytes, rng: random.Random) -> bytes:
    at = _at(data, rng)
    return data[:at] + data[at + rng.choice([1, 2, 4, 16, 256, 4096]) :]


def repeat(data: bytes, rng: random.Random) -> bytes:
    at, length = _at(data, rng), rng.choice([1, 4, 16, 256, 4096])
    times = rng.choice([1, 2, 16, 128])
    return (data[:at] + data[at : at + length] * times + data[at:])[:_LARGEST]


def noise(data: bytes, rng: random.Random) -> bytes:
    at, length = _at(data, rng), rng.choice([1, 4, 16, 256])
    return data[:at] + rng.randbytes(length) + data[at + (length if rng.random() < 0.5 else 0) :]


BYTES: tuple[Mutator, ...] = (flip_bits, flip_bits, set_number, set_number, truncate, delete, repeat, noise)


def splice(pieces: Sequence[bytes]) -> Mutator:
    """Words of the format, put somewhere."""

    def mutate(data: bytes, rng: random.Random) -> bytes:
        at, piece = _at(data, rng), rng.choice(pieces)
        return data[:at] + piece + data[at + (len(piece) if rng.random() < 0.5 else 0) :]

    return mutate


def mutate(data: bytes, rng: random.Random, mutators: Sequence[Mutator] = BYTES) -> bytes:
    for _ in range(rng.randrange(1, _MOST_MUTATIONS)):
        data = rng.choice(mutators)(data, rng)
    return data


# Formats


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    found, at = [], 8
    while at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        found.append((kind, data[at + 8 : at + 8 + length]))
        at += 12 + length
    return found


def damage_png(data: bytes, rng: random.Random) -> bytes:
    """Chunks with right checksums around wrong content, lost, doubled or in another order."""
    chunks = png_chunks(data)
    if not chunks:
        return data
    at = rng.randrange(len(chunks))
    kind, body = chunks[at]
    match rng.randrange(5):
        case 0:
            chunks[at] = kind, mutate(body, rng)
        case 1:
            chunks[0] = b"IHDR", _edge_header(rng)
        case 2:
            del chunks[at]
        case 3:
            chunks.insert(rng.randrange(len(chunks) + 1), (kind, body))
        case 4:
            extra = rng.choice([b"tRNS", b"PLTE", b"eXIf", b"iCCP", b"acTL", b"fcTL", b"gAMA", b"zTXt"])
            chunks.insert(1, (extra, rng.randbytes(rng.choice([0, 1, 3, 30, 768]))))
    return data[:8] + b"".join(png_chunk(*chunk) for chunk in chunks)


def _edge_header(rng: random.Random) -> bytes:
    side = [0, 1, 2, 4000, 8000, 65_535, 100_000, 0x7FFFFFFF, 0xFFFFFFFF]
    depth, colour = rng.choice([0, 1, 2, 4, 8, 16, 32]), rng.choice([0, 2, 3, 4, 6, 9])
    return struct.pack(">IIBBBBB", rng.choice(side), rng.choice(side), depth, colour, 0, 0, rng.choice([0, 1, 2]))


def damage_jpeg(data: bytes, rng: random.Random) -> bytes:  # noqa: PLR0911 - one a kind of damage
    """A segment with a wrong length, content or place; other sizes in the frame header."""
    segments, at = [], 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        segments.append((at, int.from_bytes(data[at + 2 : at + 4], "big")))
        at += 2 + segments[-1][1]
    if not segments:
        return data
    start, length = rng.choice(segments)
    body = data[start + 4 : start + 2 + length]
    frame = next((place for place, _ in segments if 0xC0 <= data[place + 1] <= 0xC2), None)
    match rng.randrange(5):
        case 0:
            body = mutate(body, rng)
        case 1 if frame is not None:
            sides = struct.pack(">HH", *(rng.choice([0, 1, 16, 4000, 7999, 30_000, 65_535]) for _ in range(2)))
            return data[: frame + 5] + sides + data[frame + 9 :]
        case 2:
            wrong = struct.pack(">H", rng.choice([0, 1, 2, 3, 255, 65_535]))
            return data[: start + 2] + wrong + data[start + 4 :]
        case 3:
            return data[:start] + data[start + 2 + length :]
        case _:
            return data[: start + 2 + length] + data[start:]
    if len(body) > 65_533:
        return data
    head = data[: start + 2] + struct.pack(">H", len(body) + 2)
    return head + body + data[start + 2 + length :]


def bomb_png(width: int, height: int) -> bytes:
    """A small file with a huge black picture. A megabyte of zeros is squeezed once, and repeated."""
    squeezer = zlib.compressobj(9, wbits=-15)
    block = squeezer.compress(bytes(1 << 20)) + squeezer.flush(zlib.Z_FULL_FLUSH)
    blocks, rest = divmod((1 + width * 3) * height, 1 << 20)
    adler = struct.pack(">HH", (1 + width * 3) * height % 65_521, 1)
    pixels = b"\x78\xda" + block * blocks + squeezer.compress(bytes(rest)) + squeezer.flush() + adler
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", pixels) + png_chunk(b"IEND", b"")
