"""``kiosk enroll --camera``: hints on the terminal until every pose is there; then all templates at once, or none."""

from __future__ import annotations

import contextlib
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Self

import click

from kiosk.biometrics import SubjectId
from kiosk.commands.documents import quality_document, rounded
from kiosk.commands.enroll import Enroller, Enrollment
from kiosk.commands.frames import open_frames
from kiosk.commands.options import count, print_json
from kiosk.config import Config
from kiosk.enrollment import EnrolledPhoto
from kiosk.errors import CameraError, InputError
from kiosk.evidence import describe_quality
from kiosk.guidance import Guidance, Guide, Sample
from kiosk.pipeline import Pipeline, build_guide
from kiosk.ports import Camera, EndOfStream

_READ_TIMEOUT_S = 0.5
# Shorter, nobody reads a hint; lines that stay are written still less often.
_SHOWN_S, _WRITTEN_S = 0.5, 1.0


def enroll_from_camera(
    config: Config,
    pipeline: Pipeline,
    enroller: Enroller,
    subject_id: SubjectId,
    *,
    name: str | None,
    samples: int,
    timeout_s: float,
    as_json: bool,
) -> None:
    """Lead the person before the camera through the poses, and commit the templates.

    Raises:
        InputError: no consent where it is needed; not all poses in time; a face enrolled under another id.
        UnavailableError: the camera, or the running kiosk that has it, cannot be had.
    """
    # Before anybody looks at the face.
    enroller.check_consent(subject_id)
    known = enroller.knows(subject_id)
    guide = build_guide(config, pipeline, samples=samples)
    began_s = time.monotonic()
    try:
        with open_frames(config) as camera, Display(subject_id, samples) as display:
            capture(
                camera,
                guide,
                show=display.show,
                timeout_s=timeout_s,
                check=lambda taken: enroller.check(subject_id, _as_photos(taken)),
            )
    except KeyboardInterrupt:
        click.echo(f"{subject_id}: interrupted, nothing was stored", err=True)
        raise
    except InputError as error:
        raise InputError(f"{subject_id}: nothing was stored: {error}") from error
    took_s = time.monotonic() - began_s
    with _uninterrupted():
        photos = [(photo, None) for photo in _as_photos(guide.samples)]
        enrollment = enroller.admit(subject_id, photos, name=name, known=known)
        _tell(enrollment, guide.samples, took_s, as_json=as_json, model=str(pipeline.embedder.model_id))


def capture(
    camera: Camera,
    guide: Guide,
    *,
    show: Callable[[Guidance | str], None],
    timeout_s: float,
    check: Callable[[Sequence[Sample]], None],
) -> None:
    """Look at frames until the guide has all samples. ``show`` gets every step, or the fault of the camera in words;
    ``check`` all samples whenever there is a new one.

    Raises:
        InputError: the time is over, or the source has ended; or what ``check`` raises.
        CameraError: not one frame came in that time.
    """
    deadline_s = time.monotonic() + timeout_s
    last: Guidance | None = None
    while time.monotonic() < deadline_s:
        try:
            frame = camera.read(_READ_TIMEOUT_S)
        except EndOfStream:
            raise InputError(f"the camera's file has ended: {_what_is_missing(last)}") from None
        if frame is None:
            show(camera.fault or "waiting for a picture")
            continue
        last = guide.look(frame)
        show(last)
        if last.taken is not None:
            check(guide.samples)
        if last.complete:
            return
    if last is None:
        raise CameraError(f"no picture came in {timeout_s:g} s, nothing was stored: {camera.fault or 'no frame'}")
    raise InputError(f"{timeout_s:g} s are over: {_what_is_missing(last)}; --timeout-s gives more time")


def _what_is_missing(last: Guidance | None) -> str:
    if last is None:
        return "no picture came"
    missing = ", ".join(last.missing)
    return (
        f"{len(last.done)} of {len(last.done) + len(last.missing)} pictures taken, missing: {missing}; {last.hint.text}"
    )


class Display:
    """The hint on one line that is written anew, on a terminal; elsewhere a line for each hint and each sample."""

    def __init__(self, subject_id: SubjectId, samples: int) -> None:
        self._head = f"{subject_id}: 0 of {samples}"
        self._subject_id = subject_id
        self._terminal = sys.stderr.isatty()
        self._shown = ""
        self._shown_s = float("-inf")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._terminal and self._shown:
            click.echo(err=True)

    def show(self, step: Guidance | str) -> None:
        """What is to be done now; what changes too fast to be read is left out, but for a sample."""
        taken = isinstance(step, Guidance) and step.taken is not None
        if isinstance(step, Guidance):
            poses = f" ({', '.join(step.done)})" if step.done else ""
            self._head = f"{self._subject_id}: {len(step.done)} of {len(step.done) + len(step.missing)}{poses}"
        line = f"{self._head}: {step.hint.text if isinstance(step, Guidance) else step}"
        least_s = _SHOWN_S if self._terminal else _WRITTEN_S
        now_s = time.monotonic()
        if line == self._shown or not (taken or now_s - self._shown_s >= least_s):
            return
        self._shown, self._shown_s = line, now_s
        if self._terminal:
            # Who turns the head does not see the screen: the bell tells of a sample.
            bell = "\a" if taken else ""
            line = f"\r{line[: shutil.get_terminal_size().columns - 1]}\x1b[K{bell}"
        click.echo(line, err=True, nl=not self._terminal)


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ctrl-C a moment too late: what is stored is told as stored."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _as_photos(samples: Sequence[Sample]) -> list[EnrolledPhoto]:
    return [EnrolledPhoto(f"camera ({sample.pose})", sample.quality, sample.embedding) for sample in samples]


def _tell(enrollment: Enrollment, samples: Sequence[Sample], took_s: float, *, as_json: bool, model: str) -> None:
    if as_json:
        print_json(
            {
                "subject_id": enrollment.subject_id,
                "new": enrollment.new,
                "samples": [_sample_document(sample) for sample in samples],
                "notes": list(enrollment.notes),
                "took_s": round(took_s, 1),
                "model": model,
            }
        )
        return
    done = "enrolled with" if enrollment.new else "added"
    click.echo(f"{enrollment.subject_id}: {done} {count(len(samples), 'template')} in {took_s:.0f} s")
    for sample in samples:
        figures = describe_quality(quality_document(sample.quality))
        click.echo(f"  {sample.pose:<6} {', '.join(figures)}")
    for note in enrollment.notes:
        click.echo(f"note: {enrollment.subject_id}: {note}", err=True)


def _sample_document(sample: Sample) -> dict[str, object]:
    pad = None if sample.pad is None else {"score": rounded(sample.pad.score), "threshold": sample.pad.threshold}
    return {"pose": sample.pose, "quality": quality_document(sample.quality), "pad": pad}
