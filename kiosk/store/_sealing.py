"""One template, encrypted: ChaCha20-Poly1305 over the embedding, bound to the row it is stored in.

ChaCha20 rather than AES: a Raspberry Pi 4 has no instructions for AES. A random nonce of 96 bits for every template; a
key seals far fewer than the 2^32 for which that is safe, and each erasure replaces it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

BOUND = ("id", "subject_id", "model_id", "quality", "source_sha256", "created_at")
"""What an embedding belongs to: sealed with other values of these, it cannot be read."""

KEY_BYTES = 32
_ID_BYTES = 8
_NONCE_BYTES = 12
_PURPOSE = b"kiosk template 1"


class Refused(Exception):
    """What was sealed is not what is there now, or it was sealed with another key."""


@dataclass(frozen=True, slots=True)
class Key:
    """``id``: 16 hexadecimal digits, in clear beside what the key sealed; ``secret``: 32 bytes."""

    id: str
    secret: bytes = field(repr=False)

    @classmethod
    def fresh(cls) -> Key:
        return cls(os.urandom(_ID_BYTES).hex(), os.urandom(KEY_BYTES))

    def seal(self, embedding: bytes, row: Mapping[str, object]) -> bytes:
        """Nonce (12 bytes), ciphertext, tag (16 bytes). ``row``: at least the columns of ``BOUND``."""
        return seal(self.secret, embedding, _bound(row))

    def unseal(self, sealed: bytes, row: Mapping[str, object]) -> bytes:
        """The embedding. Raises Refused."""
        return unseal(self.secret, sealed, _bound(row))


def seal(secret: bytes, content: bytes, associated: bytes) -> bytes:
    """Nonce, ciphertext and tag; ``associated`` is authenticated, too, and not part of it."""
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    nonce = os.urandom(_NONCE_BYTES)
    return nonce + ChaCha20Poly1305(secret).encrypt(nonce, content, associated)


def unseal(secret: bytes, sealed: bytes, associated: bytes) -> bytes:
    """Raises Refused."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    try:
        return ChaCha20Poly1305(secret).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], associated)
    except (InvalidTag, ValueError):
        # ValueError: too short for a nonce.
        raise Refused from None


def _bound(row: Mapping[str, object]) -> bytes:
    """The purpose and the bound values as netstrings (``3:abc,``; ``-`` for NULL): one row, one text."""
    parts = [_PURPOSE, b":"]
    for name in BOUND:
        value = row[name]
        content = b"" if value is None else str(value).encode()
        parts.append(b"-" if value is None else b"%d:%b," % (len(content), content))
    return b"".join(parts)
