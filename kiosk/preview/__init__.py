"""What the kiosk sees at the moment, for other processes of its own user: a Unix socket beside the store.

The daemon listens on ``kiosk.sock`` beside ``kiosk.db`` (mode 0600, its own user and root only). Who wants a picture
asks for it, so that a slow client slows nobody. A request is one line of JSON, at most 4 KiB, every field optional::

    {"version": 1, "after": 41, "timeout_s": 1.0, "picture": {"format": "jpeg", "longest_px": 640, "quality": 80}}

``after``: the index of the last frame the client has; it gets a newer one. ``timeout_s``: 0 to 10, how long to wait for
it. ``picture``: ``format`` is ``jpeg`` or ``raw`` (BGR, rows from the top, three bytes a pixel, no padding); a longest
side above ``longest_px`` is scaled down, without it nothing is; without ``picture`` none is sent. ``"health": true``
asks for how the kiosk is, instead of a frame.

The answer is one line of JSON (:class:`Header`), and behind it ``picture.bytes`` bytes of picture::

    {"version": 1, "error": null, "fault": null, "index": 42, "captured_s": 5012.3, "width": 1280, "height": 720,
     "faces": [{"box": [512.0, 200.5, 180.0, 181.0], "landmarks": [[560.1, 260.2], ...], "detector_score": 0.93,
                "track": 7, "final": true, "verdict": "identified", "reason": "match", "subject_id": "E1042",
                "score": 0.81, "margin": 0.27, "threshold": 0.62, "frames": 5, "quality": {"size_px": 180.0, ...},
                "pad": {"score": 0.97, "threshold": 0.6, "passed": true}}],
     "outcomes": [{"event_type": "check_in", "event_id": "0198...", "occurred_at": "2026-03-02T07:58:13.412Z",
                   "seq": 4711, "subject_id": "E1042", "reason": null}],
     "picture": {"format": "jpeg", "width": 640, "height": 360, "bytes": 41822}}

- Boxes and landmarks are in pixels of the camera's frame (``width``, ``height``), however large the picture is.
- ``captured_s``: the frame's own clock, ``CLOCK_BOOTTIME`` for a camera.
- ``index`` null: no newer frame came in time; then there is no picture, and ``fault`` says why, where the camera tells.
  A fault is told as soon as it begins, and at once to whom has no frame yet.
- ``outcomes``: the last 16 events, oldest first, also those that happened while nobody looked; ``seq`` and
  ``subject_id`` are null for faces and codes that led to no check-in, which have a ``reason`` instead.
- ``health``: ``{"now": {...}, "broker": "connected", "history": [{"at": ..., "per_s": 9.9, "p50_ms": 12.1, "p95_ms":
  20.4}, ...]}``: the document of the topic ``health``, whether the broker is there, and how long frames took, minute by
  minute in the last hour; null unless asked for.
- ``error``: the request could not be understood, or there are four clients already; the connection ends behind it.
- A client gets at most ten pictures a second, and is sent away after 30 seconds without a request.

No names, no embeddings; and nothing is stored. :class:`PreviewClient` speaks this, :class:`PreviewCamera` makes a
camera of it.
"""

from __future__ import annotations

from kiosk.preview._client import BusyError, PreviewCamera, PreviewClient, PreviewFrame
from kiosk.preview._protocol import (
    FrameTime,
    Header,
    HealthReport,
    Outcome,
    Pad,
    Request,
    SeenFace,
    SentPicture,
    WantedPicture,
    socket_path,
)
from kiosk.preview._server import Preview

__all__ = [
    "BusyError",
    "FrameTime",
    "Header",
    "HealthReport",
    "Outcome",
    "Pad",
    "Preview",
    "PreviewCamera",
    "PreviewClient",
    "PreviewFrame",
    "Request",
    "SeenFace",
    "SentPicture",
    "WantedPicture",
    "socket_path",
]
