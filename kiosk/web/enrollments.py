"""Enrolling a person through the page: with the kiosk's camera and hints, or from photos. Nothing is kept half-way."""

from __future__ import annotations

import asyncio
import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from starlette.requests import Request

from kiosk.biometrics import SubjectId, parse_subject_id
from kiosk.commands.enroll import Enroller, describe, embed, read_consent, site_today
from kiosk.commands.stores import open_store
from kiosk.config import Config
from kiosk.enrollment import EnrolledPhoto, RejectedPhoto, check_same_person
from kiosk.errors import InputError, KioskError, UnavailableError
from kiosk.guidance import Guide, Hint
from kiosk.photo import Photo, parse_photo
from kiosk.pipeline import Pipeline, build_guide, build_pipeline
from kiosk.preview import PreviewCamera, socket_path
from kiosk.store import Consent, Store, check_name
from kiosk.web.numbers import number
from kiosk.web.requests import ConflictError, Wish, beside, query, read_body, read_wish

log = logging.getLogger(__name__)

_SAMPLES = 5
_ENOUGH = 3
"""Not everybody can hold the head in every way."""
_MOST_PHOTOS = 20
_MAX_PHOTO_BYTES = 32 << 20
"""``MAX_PHOTO_MIB`` of enroll.js."""
_MOST_AT_ONCE = 8
_IDLE_S = 300.0
"""Photos that nobody has added to for so long are forgotten."""
_UNFOLLOWED_S = 15.0
"""The page asks a camera enrollment every few seconds: once it does not any more, the camera is for others."""
_TIDY_S = 1.0
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
    busy: int = 0
    """How many requests work on it: it is not idle then."""
    alone: threading.Lock = field(default_factory=threading.Lock)
    """Held by who changes it: two requests for one enrollment come after each other."""

    def is_idle(self, now_s: float) -> bool:
        return not self.busy and now_s - self.used_s > (_IDLE_S if self.camera is None else _UNFOLLOWED_S)


class Enrollments:
    """``/api/enrollments``."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._begun: dict[str, _Enrollment] = {}
        self._uploads = asyncio.Semaphore(2)
        self._models = threading.Lock()
        """The networks serve one at a time."""
        self._tidier: threading.Thread | None = None
        self._closing = threading.Event()

    async def begin(self, request: Request) -> object:
        wish = await read_wish(request, _Beginning)
        return await beside(self._begin, wish)

    async def follow(self, request: Request) -> object:
        """What the person before the camera is to do, once it is another thing than state ``after``."""
        after = number(request, "after", "a state's number") or 0
        return await beside(self._follow, request.path_params["key"], after)

    async def add_photo(self, request: Request) -> object:
        """The body is the photo's file; ``name`` is what it is called in messages."""
        shown = "".join(c for c in Path(query(request, "name") or "photo").name if c.isprintable())[-80:] or "photo"
        key = request.path_params["key"]
        with self._using(key):
            async with self._uploads:
                data = await read_body(request, _MAX_PHOTO_BYTES)
            return await beside(self._add_photo, key, shown, data)

    async def finish(self, request: Request) -> object:
        return await beside(self._finish, request.path_params["key"])

    async def cancel(self, request: Request) -> object:
        await beside(self._forget, request.path_params["key"])
        return {}

    def close(self) -> None:
        self._closing.set()
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
        if self._store_exists():
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
        self._check_consent(enrollment)
        key = secrets.token_urlsafe(16)
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
            if self._tidier is None:
                self._tidier = threading.Thread(target=self._tidy, name="tidier", daemon=True)
                self._tidier.start()
        if enrollment.camera is not None:
            enrollment.camera.start()
        return {"key": key}

    def _build_guide(self) -> Guide:
        return build_guide(self._config, self._pipeline, samples=_SAMPLES)

    def _follow(self, key: str, after: int) -> dict[str, Any]:
        with self._using(key) as begun:
            if begun.camera is None:
                return {"samples": len(begun.photos)}
            return begun.camera.state(after)

    def _add_photo(self, key: str, shown: str, data: bytes) -> dict[str, Any]:
        begun = self._find(key)
        with begun.alone:
            # It may have been finished while this waited.
            self._find(key)
            if len(begun.photos) >= _MOST_PHOTOS:
                raise InputError(f"{shown}: {_MOST_PHOTOS} photos are enough")
            photo = parse_photo(Path(shown), data)
            if any(digest == photo.sha256 for _, digest in begun.photos):
                raise InputError(f"{shown}: the same photo once more")
            with self._models, _in_page_words(shown):
                embedded = self._embed(begun, photo)
            begun.photos.append((embedded, photo.sha256))
            eyes = embedded.quality.eye_distance_px
            text = "good" if eyes is None else f"good, {eyes:.0f} px between the eyes"
            return {"samples": len(begun.photos), "text": text}

    def _embed(self, begun: _Enrollment, photo: Photo) -> EnrolledPhoto:
        """Held against the photos before it, and against whom the store knows."""
        before = [one for one, _ in begun.photos]
        if not self._store_exists():
            embedded = embed(self._pipeline, photo)
            check_same_person([*before, embedded], (), self._pipeline.same_face_score)
            return embedded
        with open_store(self._config) as store:
            enroller = self._enroller(begun, store)
            if photo.sha256 in enroller.known_hashes(begun.subject_id):
                raise InputError(f"{photo.path}: is enrolled already")
            embedded = enroller.embed(photo)
            enroller.check(begun.subject_id, [*before, embedded])
            return embedded

    def _finish(self, key: str) -> dict[str, Any]:
        with self._using(key) as begun, begun.alone:
            # Whoever came first has stored it.
            self._find(key)
            if begun.camera is not None:
                begun.photos = begun.camera.taken()
            if not begun.photos:
                raise InputError(f"{begun.subject_id}: no photo can be used yet")
            self._check_consent(begun)
            with self._open_writable() as store, _in_page_words():
                enroller = self._enroller(begun, store)
                enrollment = enroller.admit(begun.subject_id, begun.photos, name=begun.name, known=begun.known)
            self._forget(key)
        return {"subject_id": begun.subject_id, "new": enrollment.new, "text": describe(enrollment)}

    def _check_consent(self, begun: _Enrollment) -> None:
        """Raises InputError where consent is needed and there is none."""
        if not self._config.privacy.require_consent:
            return
        missing = (
            f"{begun.subject_id}: consent is needed (privacy.require_consent), and none that holds is on record: "
            "say where it is filed"
        )
        if not self._store_exists():
            if begun.consent is None:
                raise InputError(missing)
            return
        with open_store(self._config) as store:
            try:
                store.check_consent(begun.subject_id, begun.consent, site_today(self._config))
            except InputError:
                raise InputError(missing) from None

    def _store_exists(self) -> bool:
        """Only what is finished makes one."""
        return Path(self._config.store.path).exists()

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

    @contextmanager
    def _using(self, key: str) -> Iterator[_Enrollment]:
        begun = self._find(key)
        with self._lock:
            begun.busy += 1
        try:
            yield begun
        finally:
            with self._lock:
                begun.busy -= 1
                begun.used_s = time.monotonic()

    def _tidy(self) -> None:
        """Forgets what nobody uses any more, until nothing is left."""
        while not self._closing.wait(_TIDY_S):
            now_s = time.monotonic()
            with self._lock:
                idle = [key for key, begun in self._begun.items() if begun.is_idle(now_s)]
                if not self._begun:
                    self._tidier = None
                    return
            for key in idle:
                self._forget(key)


@contextmanager
def _in_page_words(photo: str | None = None) -> Iterator[None]:
    """What was found without the options of the command line. ``photo``: the one that was added last."""
    try:
        yield
    except RejectedPhoto as error:
        advice = {
            "photos_differ": "leave it out",
            "duplicate_face": f"if that is the same person, add photos to {error.other} instead",
        }.get(error.reason)
        if advice is None:
            raise
        if error.reason == "photos_differ" and photo is not None:
            # The earlier ones agreed with each other, whichever of them is least like the rest now.
            raise InputError(f"{photo}: does not show the person of the other photos; {advice}") from None
        raise InputError(f"{error.source}: {error.detail.partition(';')[0]}; {advice}") from None


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
                "enough": self._has_enough(),
                "complete": self._complete,
            }

    def _has_enough(self) -> bool:
        return self._guide is not None and len(self._guide.samples) >= _ENOUGH

    def taken(self) -> list[tuple[EnrolledPhoto, str | None]]:
        """The samples so far.

        Raises:
            InputError: too few.
        """
        with self._changed:
            if self._guide is None or not self._has_enough():
                raise InputError(
                    f"{_ENOUGH} pictures at least; still needed: {', '.join(self._missing) or 'every pose'}"
                )
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
        except Exception as error:  # noqa: BLE001 - the outermost guard of the thread: whoever waits is told
            log.error("web page: enrollment from the camera: %s: %s", type(error).__name__, error)  # noqa: TRY400
            self._tell(error=KioskError("internal error; the kiosk's log says more"))

    def _capture(self, guide: Guide, camera: PreviewCamera) -> None:
        deadline_s = time.monotonic() + _CAPTURE_S
        while not self._stopping.is_set():
            if time.monotonic() > deadline_s and self._has_enough():
                self._tell(hint="the time is over: save, or begin again")
                return
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
