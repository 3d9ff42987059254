"""Signed events: who trusts a kiosk's public key need not trust the broker (docs/signatures.md).

Each event is signed with Ed25519 (RFC 8032) when it is committed, and names the hash of the one before it. What is
signed and hashed is :func:`canonical`. ``cryptography`` is imported only where signatures are on.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Self

from kiosk.credentials import find_credential, warn_if_open
from kiosk.errors import ConfigError, InputError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

_NOT_COVERED = frozenset({"signature", "replayed"})
"""Of an event: itself, and what is decided anew whenever it is sent."""
_CREDENTIAL = "event-signing-key"
_MAX_SEQ = 2**53
_LARGEST_BYTES = 64 * 1024
"""Of a key file; that of Ed25519 has 119."""


def canonical(event: Mapping[str, Any]) -> bytes:
    """The bytes that are signed and hashed: RFC 8785 (JCS) of the event without what is not covered.

    That is ``signature``, ``replayed`` and ``subject.name``: a name is erased from what is sent again. For the values
    events have (integers below 2^53, numbers of at most four digits behind the point, names of ASCII) it is what
    Python writes with sorted names, but for whole floats.

    Raises:
        ValueError: a value that JSON cannot hold.
    """
    covered = {name: value for name, value in event.items() if name not in _NOT_COVERED}
    subject = covered.get("subject")
    if isinstance(subject, Mapping):
        covered["subject"] = {name: value for name, value in subject.items() if name != "name"}
    return json.dumps(
        _whole_numbers(covered), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def digest(event: Mapping[str, Any]) -> str:
    """What the next event names: SHA-256 of :func:`canonical`, hex."""
    return hashlib.sha256(canonical(event)).hexdigest()


def parse_event(text: str | bytes) -> dict[str, Any]:
    """An event as it was received.

    Raises:
        ValueError: no JSON object in UTF-8; or one that two readers may understand differently: a name comes twice.
    """
    try:
        # By itself json takes UTF-16 as well, and half a character.
        document = json.loads(
            text if isinstance(text, str) else text.decode(), object_pairs_hook=_unique, parse_constant=_no_number
        )
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(document, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004 - a value, not a programming mistake
    return document


class EventSigner:
    """Signs with one private key."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key

    @classmethod
    def load(cls, path: Path) -> Self:
        """The key of a PEM file (PKCS #8, without a passphrase).

        Raises:
            ConfigError: there is none.
        """
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        try:
            key = load_pem_private_key(_read(path), password=None)
        except OSError as error:
            raise ConfigError(f"mqtt.sign_key_file: {path}: {error.strerror}") from error
        except (ValueError, TypeError, UnsupportedAlgorithm):
            key = None
        if not isinstance(key, Ed25519PrivateKey):
            raise ConfigError(
                f"mqtt.sign_key_file: {path}: no Ed25519 key in PEM without a passphrase; "
                "`kiosk events keygen` makes one"
            )
        return cls(key)

    @classmethod
    def generate(cls) -> Self:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return cls(Ed25519PrivateKey.generate())

    def private_pem(self) -> bytes:
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

        return self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def public_pem(self) -> bytes:
        """As ``openssl pkey -pubout`` writes it."""
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        return self._key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    def fingerprint(self) -> str:
        """Of the public key: SHA-256, hex, as ``openssl pkey -pubin -outform DER | sha256sum`` computes it."""
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        der = self._key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return hashlib.sha256(der).hexdigest()

    def sign(self, event: Mapping[str, Any]) -> dict[str, Any]:
        """The event with its ``signature`` (Base64) as the last member."""
        bare = {name: value for name, value in event.items() if name != "signature"}
        return {**bare, "signature": base64.b64encode(self._key.sign(canonical(bare))).decode()}

    def chain(self, event: Mapping[str, Any], previous: str | None) -> dict[str, Any]:
        """The event signed, behind the one whose :func:`digest` is ``previous`` (None: it is this kiosk's first)."""
        bare = {name: value for name, value in event.items() if name not in {"previous", "signature"}}
        return self.sign({**bare, "previous": previous})


def find_signer(key_file: Path | None) -> EventSigner | None:
    """Who signs the events of this kiosk: with that key, or the service's credential. None: they are not signed.

    Raises:
        ConfigError: the key cannot be used.
    """
    path = key_file or find_credential(_CREDENTIAL)
    if path is None:
        return None
    signer = EventSigner.load(path)
    warn_if_open(path)
    return signer


@dataclass(frozen=True, slots=True)
class PublicKeys:
    """Those of one kiosk: the present one, and those it had before."""

    keys: tuple[Ed25519PublicKey, ...]

    @classmethod
    def load(cls, paths: Iterable[Path]) -> Self:
        """From PEM files.

        Raises:
            InputError: one holds no Ed25519 public key.
        """
        return cls(tuple(_public_key(path) for path in paths))

    def verify(self, event: Mapping[str, Any]) -> bool:
        """Whether one of them signed exactly this."""
        from cryptography.exceptions import InvalidSignature

        try:
            signature = base64.b64decode(event["signature"], validate=True)
            signed = canonical(event)
        except (KeyError, TypeError, ValueError, binascii.Error, RecursionError):
            return False
        for key in self.keys:
            try:
                key.verify(signature, signed)
            except InvalidSignature:
                continue
            return True
        return False


class Trouble(StrEnum):
    """What can be wrong with received events."""

    UNREADABLE = "unreadable"
    UNSIGNED = "unsigned"
    FORGED = "forged"
    """The signature does not fit: signed by nobody who has the key, or altered afterwards. Nobody can tell which."""
    CONFLICT = "conflict"
    MISSING = "missing"
    BROKEN = "broken"
    ORDER = "order"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong. ``line``: of the input, from 1 on; ``seq``: of the event, None where it has none."""

    line: int
    seq: int | None
    trouble: Trouble
    message: str


@dataclass(frozen=True, slots=True)
class _Link:
    """An event's place in the chain. ``vouched``: it is unsigned, and the one after it names it."""

    line: int
    digest: str
    previous: str | None
    occurred_at: str | None = None
    vouched: bool = False


class EventVerifier:
    """Takes one kiosk's events in the order they were received; :meth:`findings` then says what is wrong.

    Repeats of an event are no fault, nor is one that comes late and says so (``replayed``).
    """

    def __init__(self, keys: PublicKeys) -> None:
        self._keys = keys
        self._findings: list[Finding] = []
        self._links: dict[int, _Link] = {}
        self._unsigned: dict[str, Finding] = {}
        self.verified = 0
        """Events with a good signature, repeats among them."""
        self.repeats = 0
        self.without_number = 0
        """Of the verified ones: rejected events, which are in no chain."""

    def take(self, line: int, event: Mapping[str, Any]) -> None:
        number = _number(event)
        if number is None and "seq" in event:
            # 5.0 is signed like 5, and without a number an event would be in no chain.
            self._tell(line, None, Trouble.FORGED, "its seq is not written as a kiosk writes it")
        elif "signature" not in event:
            self._note_unsigned(line, number, event)
        elif not self._keys.verify(event):
            self._tell(line, number, Trouble.FORGED, "not signed with this key, or altered afterwards")
        else:
            self.verified += 1
            if number is None:
                self.without_number += 1
            else:
                self._take_link(line, number, event)

    def unreadable(self, line: int, why: str) -> None:
        self._tell(line, None, Trouble.UNREADABLE, why)

    @property
    def seqs(self) -> tuple[int, int] | None:
        """The first and the last number of verified events; None without any."""
        return (min(self._links), max(self._links)) if self._links else None

    @property
    def last_occurred_at(self) -> str | None:
        """When the last of :attr:`seqs` says it happened: nobody can see in the events what was cut off behind it."""
        return self._links[max(self._links)].occurred_at if self._links else None

    def findings(self, *, last_seq: int | None = None) -> list[Finding]:
        """By line. What an event names as the one before it is vouched for, though it be unsigned itself.

        ``last_seq``: so far the kiosk had come, as another source tells.
        """
        named = {link.previous for link in self._links.values()}
        links = dict(self._links)
        found = list(self._findings)
        for hashed, finding in self._unsigned.items():
            if hashed not in named:
                found.append(finding)
            elif finding.seq is not None:
                links.setdefault(finding.seq, _Link(finding.line, hashed, None, vouched=True))
        found += [*_gaps(links), *self._cut_end(last_seq)]
        return sorted(found, key=lambda finding: (finding.line, finding.seq or 0))

    def _cut_end(self, last_seq: int | None) -> Iterable[Finding]:
        last = max(self._links, default=0)
        if last_seq is not None and last < last_seq:
            line = self._links[last].line if last else 1
            message = f"behind it events are missing: {_numbers(last + 1, last_seq)}"
            yield Finding(line, last or None, Trouble.MISSING, message)

    def _take_link(self, line: int, seq: int, event: Mapping[str, Any]) -> None:
        link = _Link(line, digest(event), event.get("previous"), event.get("occurred_at"))
        known = self._links.get(seq)
        if known is not None:
            self.repeats += 1
            if known.digest != link.digest:
                message = f"another event than in line {known.line}, and both are signed"
                self._tell(line, seq, Trouble.CONFLICT, message)
            return
        if self._links and seq < max(self._links) and event.get("replayed") is not True:
            self._tell(line, seq, Trouble.ORDER, f"comes after event {max(self._links)}")
        self._links[seq] = link

    def _note_unsigned(self, line: int, seq: int | None, event: Mapping[str, Any]) -> None:
        finding = Finding(line, seq, Trouble.UNSIGNED, "carries no signature")
        try:
            hashed = digest(event)
        except (ValueError, RecursionError):
            hashed = f"line {line}"
        self._unsigned.setdefault(hashed, finding)

    def _tell(self, line: int, seq: int | None, trouble: Trouble, message: str) -> None:
        self._findings.append(Finding(line, seq, trouble, message))


def _number(event: Mapping[str, Any]) -> int | None:
    seq = event.get("seq")
    return seq if isinstance(seq, int) and not isinstance(seq, bool) and 1 <= seq <= _MAX_SEQ else None


def _gaps(links: Mapping[int, _Link]) -> Iterable[Finding]:
    """Where an event does not follow from the one received before it by number."""
    numbers = sorted(links)
    for before, seq in itertools.pairwise(numbers):
        link = links[seq]
        follows = seq == before + 1 if link.vouched else link.previous == links[before].digest
        if follows:
            continue
        if seq - before > 1:
            message = f"before it events are missing: {_numbers(before + 1, seq - 1)}"
            yield Finding(link.line, seq, Trouble.MISSING, message)
        else:
            message = f"does not follow from event {before}: its store was restored or copied in between"
            yield Finding(link.line, seq, Trouble.BROKEN, message)


def _numbers(first: int, last: int) -> str:
    return f"{first}" if first == last else f"{first} to {last}"


def _public_key(path: Path) -> Ed25519PublicKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(_read(path))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise InputError(f"{path}: no Ed25519 public key in PEM; `kiosk events keygen` prints one")
    return key


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_LARGEST_BYTES)


def _whole_numbers(value: Any) -> Any:  # noqa: ANN401 - whatever JSON holds
    """RFC 8785 has no other form for 1.0 than 1."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, Mapping):
        return {name: _whole_numbers(member) for name, member in value.items()}
    if isinstance(value, list | tuple):
        return [_whole_numbers(member) for member in value]
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("a name comes twice")
    return document


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")
