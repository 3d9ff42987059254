"""The second way in, a PIN or a badge: what may be entered, how it is kept, and how often it may be wrong.

A PIN is typed behind the number that names its owner (``104-482913``); a badge, a card's id or the token of a QR code,
names its owner itself. Pure but for the random numbers; the store keeps codes and failures, a reader brings lines.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import secrets
import threading
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, Protocol

from kiosk.biometrics import Reason, SubjectId
from kiosk.errors import KioskError
from kiosk.ports import Clock

log = logging.getLogger(__name__)

PIN_DIGITS = 6
MIN_BADGE, MAX_BADGE = 8, 128
"""Characters of a badge's id: four bytes, the shortest ids of cards, are eight hexadecimal digits."""
_NUMBER_DIGITS = 3
_SALT_BYTES = 16
MAX_FAILURES = 100
"""Of one PIN; then only a new one helps. As many as NIST SP 800-63B, 5.2.2, allows in a row."""
FORGIVEN = 1
"""So many of them a right entry takes back: the slips of a person, not the tries of another."""

_HASH_BYTES = 32
# OWASP's password storage cheat sheet: N=2^14 (16 MiB), r=8, p=5, the same strength as N=2^17 with p=1 (128 MiB).
_SCRYPT_N, _SCRYPT_R, _SCRYPT_P = 2**14, 8, 5
_SCRYPT_MAX_BYTES = 64 << 20
_TOKEN_BYTES = 16
_MAX_WAITING = 64

_MINUTE_MS = 60_000
_NUMBER_TRIES, _NUMBER_WINDOW_MS, _NUMBER_LOCK_MS = 5, 15 * _MINUTE_MS, 15 * _MINUTE_MS
_ALL_TRIES, _ALL_WINDOW_MS, _ALL_PAUSE_MS = 20, 5 * _MINUTE_MS, _MINUTE_MS
_REMEMBERED_MS = max(_NUMBER_WINDOW_MS + _NUMBER_LOCK_MS, _ALL_WINDOW_MS + _ALL_PAUSE_MS)
MAX_FAILURES_KEPT = 144
"""Some 4 KiB in the store. No more get through in 30 minutes, whatever is typed: in every five of them 20 and, each
after a minute of pause, four more. Only what reboots keep from growing old could exceed it."""

_PIN = re.compile(rf"(\d{{3,6}})[-*#./+, ](\d{{{PIN_DIGITS}}})", re.ASCII)
"""The keys of a number pad that are no digits all divide; without one of them it might be a card's number."""
_BADGE = re.compile(rf"[!-~]{{{MIN_BADGE},{MAX_BADGE}}}")


class Kind(StrEnum):
    """What a code is. A person may have one of each."""

    PIN = "pin"
    BADGE = "badge"


@dataclass(frozen=True, slots=True)
class Entry:
    """What was typed or presented. ``number``: whose PIN it is said to be; None for a badge. Never shown or logged."""

    kind: Kind
    number: int | None
    secret: str

    def __repr__(self) -> str:
        return f"Entry({self.kind})"


@dataclass(frozen=True, slots=True)
class StoredCode:
    """A code as it is kept: its secret only as an scrypt hash."""

    subject_id: SubjectId
    kind: Kind
    number: int | None
    salt: bytes
    hash: bytes
    failures: int
    created_at: str

    @property
    def spent(self) -> bool:
        """So often entered wrongly that it is accepted no more."""
        return self.failures >= MAX_FAILURES


class Failure(NamedTuple):
    """A wrong entry: for which number, somebody's or nobody's, and when, ``CLOCK_BOOTTIME``.

    None: a badge, or what counts for no number any more.
    """

    number: int | None
    at_ms: int


@dataclass(frozen=True, slots=True)
class CodeAnswer:
    """What came of an entry: a subject, or the reason why not. ``at_s``: when, ``CLOCK_BOOTTIME``."""

    kind: Kind
    reason: Reason
    at_s: float
    subject_id: SubjectId | None = None


class CodeBook(Protocol):
    """The part of the store that codes are kept in."""

    def inherit_failures(self, *, boottime_ms: int, boot_id: str) -> None: ...

    def charge_code(self, number: int | None, *, boottime_ms: int, boot_id: str) -> Reason | None: ...

    def discharge_code(self, number: int | None, *, boottime_ms: int) -> None: ...

    def pin(self, number: int) -> StoredCode | None: ...

    def badge_salts(self) -> list[bytes]: ...

    def badge(self, digest: bytes) -> StoredCode | None: ...


class CodeDesk:
    """Judges entries one after another; whatever is wrong with one, it takes as long as a right one.

    An entry counts as wrong before it is looked at, and no longer once it has been found right: who cuts the power in
    between has still used up a try.
    """

    def __init__(self, book: CodeBook, *, clock: Clock, boot_id: str) -> None:
        self._book = book
        self._clock = clock
        # Without one every start counts as a boot.
        self._boot_id = boot_id or new_token()
        self._nobodys_salt = new_salt()
        self._one_at_a_time = threading.Lock()
        # More than the desk can judge while a frame is processed.
        self._answers: deque[CodeAnswer] = deque(maxlen=_MAX_WAITING)
        self._told_pause = False
        self.fault: str | None = None
        """Why codes cannot be judged; None once one could be again."""
        self.counts: Counter[str] = Counter()
        """``code_unreadable``: lines that are no codes; ``code_ignored``: entries during a pause, but for the first."""

    def open(self) -> None:
        """Take over the wrong entries of before the start. Once, before the first entry.

        On a full disk the first entry does, and nothing is accepted until then: the door stays open to faces.
        """
        try:
            self._book.inherit_failures(boottime_ms=round(self._clock.boottime_s() * 1000), boot_id=self._boot_id)
        except KioskError as error:
            self._note_fault(error)

    def hear(self, line: str) -> None:
        """Judge what a reader brings; what comes of it waits for :meth:`take`. Takes its time: for any other thread."""
        entry = parse_entry(line)
        if entry is None:
            self.counts["code_unreadable"] += 1
            return
        with self._one_at_a_time:
            self._hear(entry)

    def _hear(self, entry: Entry) -> None:
        try:
            answer = self.judge(entry)
        except KioskError as error:
            self._note_fault(error)
            return
        self.fault = None
        paused = answer.reason is Reason.CODE_PAUSED
        if paused and self._told_pause:
            self.counts["code_ignored"] += 1
        else:
            self._answers.append(answer)
        self._told_pause = paused

    def _note_fault(self, error: KioskError) -> None:
        if self.fault is None:
            log.error("codes are not accepted: %s", error)
        self.fault = f"codes are not accepted: {error}"

    def take(self) -> list[CodeAnswer]:
        """What has been judged since the last call."""
        return [self._answers.popleft() for _ in range(len(self._answers))]

    def judge(self, entry: Entry) -> CodeAnswer:
        """Whose entry it is.

        Raises:
            StoreError: the store can be neither asked nor written: nothing is accepted, and nothing told about it.
        """
        at_s = self._clock.boottime_s()
        boottime_ms = round(at_s * 1000)
        refusal = self._book.charge_code(entry.number, boottime_ms=boottime_ms, boot_id=self._boot_id)
        if refusal is not None:
            return CodeAnswer(entry.kind, refusal, at_s)
        stored = self._match(entry)
        if stored is None:
            return CodeAnswer(entry.kind, Reason.CODE_WRONG, at_s)
        self._book.discharge_code(entry.number, boottime_ms=boottime_ms)
        return CodeAnswer(entry.kind, Reason.MATCH, at_s, stored.subject_id)

    def _match(self, entry: Entry) -> StoredCode | None:
        if entry.number is None:
            return find_badge(self._book, entry.secret)
        stored = self._book.pin(entry.number)
        digest = hash_secret(entry.secret, self._nobodys_salt if stored is None else stored.salt)
        right = hmac.compare_digest(digest, bytes(_HASH_BYTES) if stored is None else stored.hash)
        if stored is None:
            return None
        # This entry is charged already.
        before = stored.failures - 1
        if not right and before == MAX_FAILURES - 1:
            who = stored.subject_id
            log.warning(
                "the PIN of %s is off after %s failures; `kiosk subjects code %s` makes a new one",
                who,
                MAX_FAILURES,
                who,
            )
        return stored if right and before < MAX_FAILURES else None


def find_badge(book: CodeBook, token: str) -> StoredCode | None:
    """Whose badge it is; as long as it takes for a badge of nobody's."""
    # One salt, but for a store that was put together from two after damage.
    digests = [hash_secret(token, salt) for salt in book.badge_salts() or [new_salt()]]
    return next((code for code in map(book.badge, digests) if code is not None), None)


def parse_entry(line: str) -> Entry | None:
    """What a line from a reader is; None where it cannot be a code of any kind."""
    text = line.strip(" \t\r\n")
    if found := _PIN.fullmatch(text):
        return Entry(Kind.PIN, int(found[1]), found[2])
    return Entry(Kind.BADGE, None, text) if _BADGE.fullmatch(text) else None


def hash_secret(secret: str, salt: bytes) -> bytes:
    """scrypt, 32 bytes; 16 MiB and, on purpose, a good part of a second on a small computer."""
    return hashlib.scrypt(
        secret.encode(),
        salt=salt,
        n=_SCRYPT_N,
        r=_SCRYPT_R,
        p=_SCRYPT_P,
        maxmem=_SCRYPT_MAX_BYTES,
        dklen=_HASH_BYTES,
    )


def new_salt() -> bytes:
    return secrets.token_bytes(_SALT_BYTES)


def new_pin() -> str:
    """Six digits, all of them equally likely."""
    return f"{secrets.randbelow(10**PIN_DIGITS):0{PIN_DIGITS}d}"


def new_token() -> str:
    """128 random bits, in letters that every scanner, of whatever keyboard layout, gives as they are."""
    return secrets.token_hex(_TOKEN_BYTES)


def new_number(taken: Sequence[int]) -> int:
    """A number of three digits that nobody has, of more where most are given out."""
    digits = _NUMBER_DIGITS
    while sum(number < 10**digits for number in taken) > 10**digits // 2:
        digits += 1
    smallest: int = 10 ** (digits - 1)
    while (number := smallest + secrets.randbelow(9 * smallest)) in taken:
        pass
    return number


def written(number: int, pin: str) -> str:
    """How a PIN is handed out and typed."""
    return f"{number}-{pin}"


def remembered(failures: Sequence[Failure], now_ms: int) -> list[Failure]:
    """Those that still count for anything."""
    return [failure for failure in failures if failure.at_ms > now_ms - _REMEMBERED_MS]


def refusal(failures: Sequence[Failure], number: int | None, now_ms: int) -> Reason | None:
    """Why nothing is looked at just now, None where an entry may be tried.

    20 failures in 5 minutes: nothing at all for one more minute. 5 for one number in 15 minutes: nothing for this
    number for 15 more. Nothing that is refused counts for the number, so that nobody prolongs a lock by typing on.
    """
    if _closed(failures, _ALL_TRIES, _ALL_WINDOW_MS, _ALL_PAUSE_MS, now_ms):
        return Reason.CODE_PAUSED
    own = [failure for failure in failures if failure.number == number]
    if number is not None and _closed(own, _NUMBER_TRIES, _NUMBER_WINDOW_MS, _NUMBER_LOCK_MS, now_ms):
        return Reason.CODE_LOCKED
    return None


def _closed(failures: Sequence[Failure], tries: int, window_ms: int, closed_ms: int, now_ms: int) -> bool:
    """Whether the last failure was one too many, and not long enough ago."""
    if not failures:
        return False
    last_ms = max(failure.at_ms for failure in failures)
    recent = sum(failure.at_ms > last_ms - window_ms for failure in failures)
    return recent >= tries and now_ms < last_ms + closed_ms
