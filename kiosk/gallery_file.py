"""A gallery in one encrypted file, to be taken to another kiosk: templates and what belongs to them, no photos.

    kiosk gallery 1
    {"model":"facenet512-int8@af5800","embedding_dim":512,"people":48,"templates":144,...}
    ciphertext and tag

Two lines of ASCII that anybody may read, then ChaCha20-Poly1305 under a key that scrypt derives from a password. The
two lines are authenticated with the ciphertext: a file in which one bit differs is not opened. What is encrypted is one
line of JSON (the people, each with the figures of the templates), and then the embeddings in that order, little-endian
float32.

Another form gets another number in the first line.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator

from kiosk.biometrics import Embedding, ModelId, Quality, StoredTemplate, SubjectId
from kiosk.errors import InputError, UnavailableError

VERSION = 1
MOST_BYTES = 128 << 20
"""Of a file: 50,000 templates of 512 numbers. It is opened in memory."""

_MAGIC = b"kiosk gallery "
_LONGEST_LINE_BYTES = 4096
_KEY_BYTES, _CHECK_BYTES, _NONCE_BYTES, _TAG_BYTES, _SALT_BYTES = 32, 16, 12, 16, 16
_FLOAT_BYTES = 4
# 128 MiB and half a second: what OWASP's cheat sheet on storing passwords asks of scrypt.
_SCRYPT_N, _SCRYPT_R, _SCRYPT_P = 1 << 17, 8, 1
_NORM_TOLERANCE = 1e-3

_Hex = Annotated[str, StringConstraints(pattern=r"^(?:[0-9a-f]{2})+$", max_length=128)]
_Word = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._+@-]{1,128}$")]
_Moment = Annotated[str, StringConstraints(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,6})?Z$")]
_Text = Annotated[str, StringConstraints(min_length=1, max_length=200)]
_Figure = Annotated[float, Field(ge=-1e9, le=1e9)]


class _Record(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, revalidate_instances="always"
    )


class Scrypt(_Record):
    """How the key follows from the password. Bounded: a file made in malice costs 256 MiB and a few seconds."""

    n: Annotated[int, Field(ge=1 << 14, le=1 << 18)]
    r: Annotated[int, Field(ge=8, le=8)]
    p: Annotated[int, Field(ge=1, le=4)]
    salt: _Hex

    @field_validator("n")
    @classmethod
    def _power_of_two(cls, n: int) -> int:
        if n & (n - 1):
            raise ValueError("not a power of two")
        return n


class Header(_Record):
    """What anybody may read of a file. Only what :func:`open_gallery` returns was authenticated.

    ``clock_synchronized``: whether ``exported_at`` is known to be right. ``check``: tells a wrong password from an
    altered file.
    """

    model: _Word
    embedding_dim: Annotated[int, Field(ge=1, le=4096)]
    people: Annotated[int, Field(ge=1, le=1_000_000)]
    templates: Annotated[int, Field(ge=0, le=1_000_000)]
    exported_at: _Moment
    clock_synchronized: bool
    site: _Word
    device: _Word
    kiosk: _Word
    cipher: Literal["chacha20-poly1305"]
    nonce: _Hex
    scrypt: Scrypt
    check: _Hex
    content_bytes: Annotated[int, Field(ge=_TAG_BYTES, le=MOST_BYTES)]
    """Of ciphertext and tag."""


class PortableConsent(_Record):
    """As :class:`kiosk.store.Consent`."""

    reference: _Text
    given_at: Annotated[str, StringConstraints(min_length=1, max_length=64)]
    text_version: _Text | None
    until: Annotated[str, StringConstraints(pattern=r"^\d{4}-\d\d-\d\d$")] | None


@dataclass(frozen=True, slots=True)
class PortablePerson:
    """A subject with all of the templates that one model made. ``created_at``: when first enrolled (UTC)."""

    id: SubjectId
    name: str | None
    created_at: str
    consent: PortableConsent | None
    templates: tuple[StoredTemplate, ...]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where and when an export was made, and with which version of the kiosk."""

    exported_at: str
    clock_synchronized: bool
    site: str
    device: str
    kiosk: str


class _Measures(_Record):
    size_px: _Figure
    sharpness: _Figure
    brightness: _Figure
    yaw: _Figure | None
    eye_distance_px: _Figure | None
    contrast: _Figure | None
    clipped: _Figure | None
    pitch: _Figure | None
    detector_score: _Figure | None


class _Template(_Record):
    created_at: _Moment
    quality: _Measures | None
    source_sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")] | None


class _Person(_Record):
    id: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
    name: _Text | None
    created_at: _Moment
    consent: PortableConsent | None
    templates: tuple[_Template, ...]


class _Content(_Record):
    people: tuple[_Person, ...]


def seal_gallery(
    people: Sequence[PortablePerson], model_id: ModelId, embedding_dim: int, origin: Origin, password: str
) -> bytes:
    """The bytes of a file.

    Raises:
        InputError: it would be larger than is read again.
        UnavailableError: there is not enough memory to derive the key.
    """
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    rows = [template for person in people for template in person.templates]
    embeddings = np.array([row.embedding for row in rows], dtype="<f4").reshape(len(rows), embedding_dim)
    content = _Content(people=tuple(map(_described, people)))
    text = content.model_dump_json().encode() + b"\n" + embeddings.tobytes()
    scrypt = Scrypt(n=_SCRYPT_N, r=_SCRYPT_R, p=_SCRYPT_P, salt=os.urandom(_SALT_BYTES).hex())
    key, check = _derive(password, scrypt)
    nonce = os.urandom(_NONCE_BYTES)
    if len(text) + _TAG_BYTES + 2 * _LONGEST_LINE_BYTES > MOST_BYTES:
        raise InputError(
            f"{len(rows)} templates are more than one file holds ({MOST_BYTES >> 20} MiB); export in parts, naming ids"
        )
    header = Header(
        model=model_id,
        embedding_dim=embedding_dim,
        people=len(people),
        templates=len(rows),
        **asdict(origin),
        cipher="chacha20-poly1305",
        nonce=nonce.hex(),
        scrypt=scrypt,
        check=check,
        content_bytes=len(text) + _TAG_BYTES,
    )
    lines = b"%b%d\n%b\n" % (_MAGIC, VERSION, header.model_dump_json().encode())
    return lines + ChaCha20Poly1305(key).encrypt(nonce, text, lines)


def read_header(name: str, content: bytes) -> Header:
    """What a file says of itself, before a password is asked for; nothing of it is proven yet.

    ``name``: of the file, for what goes wrong.

    Raises:
        InputError: it is no such file, of a newer version, too large, cut off, or something was put behind it.
    """
    return _split(name, content)[0]


def open_gallery(name: str, content: bytes, password: str) -> tuple[Header, list[PortablePerson]]:
    """The people in a file, in the order of their ids, once everything about it was verified.

    Raises:
        InputError: as :func:`read_header`; or the password is wrong, the file was altered, or holds what no kiosk
            writes.
        UnavailableError: there is not enough memory to derive the key.
    """
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    header, lines = _split(name, content)
    key, check = _derive(password, header.scrypt)
    if check != header.check:
        raise InputError(f"{name}: the password is wrong (or the file's header was altered); nothing was imported")
    try:
        text = ChaCha20Poly1305(key).decrypt(bytes.fromhex(header.nonce), content[len(lines) :], lines)
    except (InvalidTag, ValueError):
        raise InputError(
            f"{name}: was altered or damaged since it was exported; nothing was imported: copy or export it again"
        ) from None
    people = _read_content(name, header, text)
    return header, sorted(people, key=lambda person: person.id)


def _split(name: str, content: bytes) -> tuple[Header, bytes]:
    """The header, and the two lines it is part of."""
    if len(content) > MOST_BYTES:
        raise InputError(f"{name}: larger than any export ({MOST_BYTES >> 20} MiB); nothing was imported")
    if not content.startswith(_MAGIC):
        raise InputError(f"{name}: not an export of a gallery; `kiosk subjects export FILE` makes one")
    first, _, rest = content[: 2 * _LONGEST_LINE_BYTES].partition(b"\n")
    version = first.removeprefix(_MAGIC)
    if not version.isdigit() or version.startswith(b"0") or len(version) > 9:
        raise InputError(f"{name}: its first line is damaged; nothing was imported: copy or export it again")
    if int(version) > VERSION:
        raise InputError(
            f"{name}: written by a newer version of the kiosk (form {int(version)}, this one knows {VERSION}); update "
            "this kiosk, or export with this version"
        )
    second, end, _ = rest.partition(b"\n")
    if not end:
        raise InputError(f"{name}: its header is cut off or damaged; nothing was imported: copy or export it again")
    lines = first + b"\n" + second + b"\n"
    try:
        header = Header.model_validate_json(second)
    except ValidationError:
        raise InputError(f"{name}: its header is damaged; nothing was imported: copy or export it again") from None
    there = len(content) - len(lines)
    if there < header.content_bytes:
        raise InputError(
            f"{name}: cut off, {there} of {header.content_bytes} bytes are there; nothing was imported: copy it again"
        )
    if there > header.content_bytes:
        raise InputError(f"{name}: something was put behind its end; nothing was imported: copy or export it again")
    return header, lines


def _derive(password: str, scrypt: Scrypt) -> tuple[bytes, str]:
    """The key, and what tells whether the password is the right one: two blocks of scrypt's output (RFC 7914)."""
    from cryptography.hazmat.primitives.kdf.scrypt import Scrypt as Kdf

    # The same letters, whichever keyboard composed them.
    secret = unicodedata.normalize("NFC", password).encode()
    kdf = Kdf(salt=bytes.fromhex(scrypt.salt), length=_KEY_BYTES + _CHECK_BYTES, n=scrypt.n, r=scrypt.r, p=scrypt.p)
    try:
        derived = kdf.derive(secret)
    except MemoryError:
        raise UnavailableError(
            f"the key of an export takes {scrypt.n * scrypt.r * 128 >> 20} MiB of memory, and there is not so much; "
            "stop something, or do it on a larger machine"
        ) from None
    return derived[:_KEY_BYTES], derived[_KEY_BYTES:].hex()


def _described(person: PortablePerson) -> _Person:
    try:
        templates = tuple(
            _Template(
                created_at=template.created_at,
                quality=None if template.quality is None else _measures(template.quality),
                source_sha256=template.source_sha256,
            )
            for template in person.templates
        )
        return _Person(
            id=person.id, name=person.name, created_at=person.created_at, consent=person.consent, templates=templates
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(
            f"{person.id}: cannot be exported, {'.'.join(map(str, first['loc']))}: {first['msg']}; nothing was written"
        ) from None


def _measures(quality: Quality) -> _Measures:
    figures = asdict(quality)
    del figures["failure"]
    return _Measures.model_validate({name: value if value is None else float(value) for name, value in figures.items()})


def _read_content(name: str, header: Header, text: bytes) -> list[PortablePerson]:
    end = text.find(b"\n")
    try:
        content = _Content.model_validate_json(text[: max(end, 0)])
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "people"
        raise _foreign(name, f"{where}: {first['msg']}") from None
    people = content.people
    templates = sum(len(person.templates) for person in people)
    if (len(people), templates) != (header.people, header.templates):
        raise _foreign(name, "it does not hold as many people and templates as it says")
    if len({person.id for person in people}) != len(people):
        raise _foreign(name, "one id stands there twice")
    numbers = templates * header.embedding_dim
    if len(text) - end - 1 != numbers * _FLOAT_BYTES:
        raise _foreign(name, "it does not hold as many numbers as it says")
    embeddings = np.frombuffer(text, "<f4", numbers, end + 1).astype(np.float32).reshape(-1, header.embedding_dim)
    norms = np.linalg.norm(embeddings.astype(np.float64), axis=1)
    # Not finite is neither.
    if not (np.abs(norms - 1) <= _NORM_TOLERANCE).all():
        raise _foreign(name, "a template is no embedding")
    rows = iter(embeddings)
    return [_person(person, ModelId(header.model), [next(rows) for _ in person.templates]) for person in people]


def _person(person: _Person, model_id: ModelId, embeddings: Sequence[Embedding]) -> PortablePerson:
    templates = tuple(
        StoredTemplate(
            SubjectId(person.id),
            model_id,
            embedding,
            None,
            None if template.quality is None else Quality(**template.quality.model_dump()),
            template.source_sha256,
            template.created_at,
        )
        for template, embedding in zip(person.templates, embeddings, strict=True)
    )
    return PortablePerson(SubjectId(person.id), person.name, person.created_at, person.consent, templates)


def _foreign(name: str, what: str) -> InputError:
    return InputError(f"{name}: holds what no kiosk writes ({what}); nothing was imported")
