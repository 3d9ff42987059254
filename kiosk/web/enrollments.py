"""Enrolling a person through the page: with the kiosk's camera and hints, or from photos. Nothing is kept half-way."""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from starlette.requests import Request

from kiosk.biometrics import SubjectId
from kiosk.commands.enroll import Enroller, describe, read_consent, site_today
from kiosk.commands.stores import open_store
from kiosk.config import Config
from kiosk.enrollment import EnrolledPhoto, parse_subject_id
from kiosk.errors import InputError, KioskError, UnavailableError, UsageError
from kiosk.guidance import Guide, Hint
from kiosk.photo import parse_photo
from kiosk.pipeline import Pipeline, build_guide, build_pipeline
from kiosk.preview import PreviewCamera, socket_path
from kiosk.store import Consent, Store, check_name
from kiosk.web.requests import ConflictError, Wish, beside, query, read_body, read_wish

_SAMPLES = 5
_MOST_PHOTOS = 20
_MAX_PHOTO_BYTES = 32 << 20
"""``MAX_PHOTO_MIB`` of enroll.js."""
_MOST_AT_ONCE = 8
_IDLE_S = 300.0
"""An enrollment nobody has asked about for so long is forgotten."""
_CAPTURE_S = 180.0
_READ_TIMEOUT_S = 0.5
_WAIT_S = 5.0


class _Beginning(Wish):
    """``more``: the person is enrolled already, and gets more templates."""

    subject_id: str
    source: Literal["camera", "photos"]
    name: str | None = None
    consent: str | None = None
    more: bool = False


@dataclass(slots=True)
class _Enrollment:
    """One that has begun. Everything in it lives in memory until it is finished."""

    subject_id: SubjectId
    known: bool
    name: str | None
    consent: Consent | None
    used_s: float
    photos: list[tuple[EnrolledPhoto, str | None]] = field(default_factory=list)
    """With the digest of the file each was made of; None for the camera's."""
    camera: _Capture | None = None
    alone: threading.Lock = field(default_factory=threading.Lock)
    """Held by who changes it: two requests for one enrollment come after each other."""


class Enrollments:
    """``/api/enrollments``."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._begun: dict[str, _Enrollment] = {}
        self._uploads = asyncio.Semaphore(2)
        self._models = threading.Lock()
        """The networks serve one at a time."""

    async def begin(self, request: Request) -> object:
        wish = await read_wish(request, _Beginning)
        return await beside(self._begin, wish)

    async def follow(self, request: Request) -> object:
        """What the person before the camera is to do, once it is another thing than state ``after``."""
        text = query(request, "after") or "0"
        if not text.isdecimal():
            raise UsageError("after: a state's number")
        return await beside(self._follow, request.path_params["key"], int(text))

    async def add_photo(self, request: Request) -> object:
        """The body is the photo's file; ``name`` is what it is called in messages."""
        shown = "".join(c for c in Path(query(request, "name") or "photo").name if c.isprintable())[-80:] or "photo"
        begun = self._find(request.path_params["key"])
        async with self._uploads:
            data = await read_body(request, _MAX_PHOTO_BYTES)
        return await beside(self._add_photo, begun, shown, data)

    async def finish(self, request: Request) -> object:
        return await beside(self._finish, request.path_params["key"])

    async def cancel(self, request: Request) -> object:
        await beside(self._forget, request.path_params["key"])
        return {}

    def close(self) -> None:
        for key in list(self._begun):
            self._forget(key)

    @cached_property
    def _pipeline(self) -> Pipeline:
        """Loaded when somebody is enrolled for the first time."""
        return build_pipeline(self._config)

    def _begin(self, wish: _Beginning) -> dict[str, Any]:
        subject_id = parse_subject_id(wish.subject_id)
        name = (wish.name or "").strip() or None
        check_name(name)
        consent = read_consent(wish.consent or None, None, None, None, site_today(self._config))
        if Path(self._config.store.path).exists():
            with open_store(self._config) as store:
                known = store.subject(subject_id)
        else:
            known = None
        if known is not None and not wish.more:
            raise InputError(f"{subject_id}: enrolled already, as {known.name or subject_id}; add photos there")
        if known is None and wish.more:
            raise InputError(f"{subject_id}: not enrolled any more")
        enrollment = _Enrollment(subject_id, known is not None, name, consent, time.monotonic())
        # Before anybody looks at a face.
        with self._open_writable() as store, self._models:
            self._enroller(enrollment, store).check_consent(subject_id)
        key = secrets.token_urlsafe(16)
        self._forget_idle()
        with self._lock:
            if any(other.subject_id == subject_id for other in self._begun.values()):
                raise ConflictError(f"{subject_id}: is being enrolled in another window; finish or cancel it there")
            if wish.source == "camera" and any(other.camera is not None for other in self._begun.values()):
                raise ConflictError("the camera is enrolling somebody else at the moment; try again in a minute")
            if len(self._begun) >= _MOST_AT_ONCE:
                raise ConflictError(f"{_MOST_AT_ONCE} people are being enrolled already; try again in a minute")
            if wish.source == "camera":
                enrollment.camera = _Capture(self._config, self._build_guide, self._models)
            self._begun[key] = enrollment
        if enrollment.camera is not None:
            enrollment.camera.start()
        return {"key": key}

    def _build_guide(self) -> Guide:
        return build_guide(self._config, self._pipeline, samples=_SAMPLES)

    def _follow(self, key: str, after: int) -> dict[str, Any]:
        begun = self._find(key)
        if begun.camera is None:
            return {"samples": len(begun.photos)}
        return begun.camera.state(after)

    def _add_photo(self, begun: _Enrollment, shown: str, data: bytes) -> dict[str, Any]:
        with begun.alone:
            if len(begun.photos) >= _MOST_PHOTOS:
                raise InputError(f"{shown}: {_MOST_PHOTOS} photos are enough")
            photo = parse_photo(Path(shown), data)
            if any(digest == photo.sha256 for _, digest in begun.photos):
                raise InputError(f"{shown}: the same photo once more")
            with self._models, open_store(self._config) as store:
                enroller = self._enroller(begun, store)
                embedded = enroller.embed(photo)
                enroller.check(begun.subject_id, [*(photo for photo, _ in begun.photos), embedded])
            begun.photos.append((embedded, photo.sha256))
            eyes = embedded.quality.eye_distance_px
            text = "good" if eyes is None else f"good, {eyes:.0f} px between the eyes"
            return {"samples": len(begun.photos), "text": text}

    def _finish(self, key: str) -> dict[str, Any]:
        begun = self._find(key)
        with begun.alone:
            if begun.camera is not None:
                begun.photos = begun.camera.taken()
            if not begun.photos:
                raise InputError(f"{begun.subject_id}: no photo can be used yet")
            with self._open_writable() as store:
                enroller = self._enroller(begun, store)
                enrollment = enroller.admit(begun.subject_id, begun.photos, name=begun.name, known=begun.known)
        self._forget(key)
        return {"subject_id": begun.subject_id, "new": enrollment.new, "text": describe(enrollment)}

    def _enroller(self, begun: _Enrollment, store: Store) -> Enroller:
        needed_on = site_today(self._config) if self._config.privacy.require_consent else None
        return Enroller(self._pipeline, store, force=False, consent=begun.consent, consent_needed_on=needed_on)

    def _open_writable(self) -> Store:
        return open_store(self._config, writable=True)

    def _find(self, key: str) -> _Enrollment:
        with self._lock:
            begun = self._begun.get(key)
            if begun is None:
                raise InputError("this enrollment has ended; begin again")
            begun.used_s = time.monotonic()
            return begun

    def _forget(self, key: str) -> None:
        with self._lock:
            begun = self._begun.pop(key, None)
        if begun is not None and begun.camera is not None:
            begun.camera.stop()

    def _forget_idle(self) -> None:
        now_s = time.monotonic()
        for key, begun in list(self._begun.items()):
            if now_s - begun.used_s > _IDLE_S:
                self._forget(key)


class _Capture:
    """Leads the person before the running kiosk's camera through the poses, in a thread of its own."""

    def __init__(self, config: Config, build: Callable[[], Guide], models: threading.Lock) -> None:
        self._path = socket_path(Path(config.store.path))
        self._build = build
        self._models = models
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._guide: Guide | None = None
        self._hint: str = Hint.STAND_HERE.text
        self._missing: tuple[str, ...] = ()
        self._complete = False
        self._error: KioskError | None = None
        self._version = 0
        self._thread = threading.Thread(target=self._run, name="enrollment", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(2 * _READ_TIMEOUT_S)

    def state(self, after: int) -> dict[str, Any]:
        """As the page shows it, once it is another one than ``after``.

        Raises:
            KioskError: what ended the enrollment.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._version != after, _WAIT_S)
            if self._error is not None:
                raise self._error
            return {
                "version": self._version,
                "hint": self._hint,
                "wanted": _SAMPLES,
                "samples": 0 if self._guide is None else len(self._guide.samples),
                "missing": list(self._missing),
                "complete": self._complete,
            }

    def taken(self) -> list[tuple[EnrolledPhoto, str | None]]:
        """All samples.

        Raises:
            InputError: there are poses left.
        """
        with self._changed:
            if self._guide is None or not self._complete:
                raise InputError(f"still needed: {', '.join(self._missing) or 'every pose'}")
            samples = self._guide.samples
        return [(EnrolledPhoto(f"camera ({one.pose})", one.quality, one.embedding), None) for one in samples]

    def _run(self) -> None:
        try:
            with self._models:
                guide = self._build()
            with closing(PreviewCamera(self._path)) as camera:
                self._capture(guide, camera)
        except KioskError as error:
            self._tell(error=error)

    def _capture(self, guide: Guide, camera: PreviewCamera) -> None:
        deadline_s = time.monotonic() + _CAPTURE_S
        while not self._stopping.is_set():
            if time.monotonic() > deadline_s:
                raise UnavailableError(f"{_CAPTURE_S:.0f} s are over; begin again when the person is there")
            frame = camera.read(_READ_TIMEOUT_S)
            if frame is None:
                self._tell(hint=camera.fault or "waiting for a picture")
                continue
            with self._models:
                step = guide.look(frame)
            self._guide = guide
            self._tell(hint=step.hint.text, missing=step.missing, complete=step.complete)
            if step.complete:
                return

    def _tell(
        self,
        *,
        hint: str | None = None,
        missing: tuple[str, ...] | None = None,
        complete: bool = False,
        error: KioskError | None = None,
    ) -> None:
        with self._changed:
            before = self._hint, self._missing, self._complete, self._error
            self._hint = self._hint if hint is None else hint
            self._missing = self._missing if missing is None else missing
            self._complete, self._error = complete, error
            if (self._hint, self._missing, self._complete, self._error) != before:
                self._version += 1
                self._changed.notify_all()
