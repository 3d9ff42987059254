"""The preview: the socket beside the store over which others see what the kiosk sees. Server, client and daemon."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from broker import wait_for
from command_line import Kiosk
from mjpeg import MjpegServer
from runner import enroll_people

from kiosk.biometrics import (
    Box,
    Candidate,
    Decision,
    Face,
    FaceReport,
    Frame,
    Image,
    PadScore,
    Quality,
    Reason,
    SubjectId,
    Verdict,
)
from kiosk.clip import Person, Scene, Walk, write_clip
from kiosk.config import load
from kiosk.daemon import _open_preview
from kiosk.errors import UnavailableError
from kiosk.opencv import cv2
from kiosk.preview import Header, Preview, PreviewCamera, PreviewClient, WantedPicture, socket_path

QUALITY = Quality(size_px=120.0, sharpness=50.0, brightness=110.0, yaw=0.1, eye_distance_px=50.0)


def picture(value: int = 0) -> Image:
    """A picture in which every pixel differs from its neighbours."""
    image: Image = np.arange(48 * 64 * 3, dtype=np.int64).reshape(48, 64, 3).astype(np.uint8)
    image[0, 0] = value
    return image


def report() -> FaceReport:
    landmarks = np.array([[20, 20], [30, 20], [25, 25]], np.float32)
    candidates = Candidate(SubjectId("E1"), 0.8), Candidate(SubjectId("E2"), 0.5)
    decision = Decision(Verdict.IDENTIFIED, Reason.MATCH, 0.6, candidates, 3, QUALITY, 0.05, (), PadScore(0.9, 0.7))
    return FaceReport(Face(Box(10.5, 12, 30, 31), 0.95, landmarks), decision, track_id=7, final=True)


@pytest.fixture
def preview(path: Path) -> Iterator[Preview]:
    preview = Preview(socket_path(path))
    preview.start()
    yield preview
    preview.stop()


@pytest.fixture
def client(path: Path, preview: Preview) -> Iterator[PreviewClient]:  # noqa: ARG001 the other end
    with PreviewClient(socket_path(path)) as client:
        yield client


@contextlib.contextmanager
def showing(preview: Preview, image: Image | None = None, reports: tuple[FaceReport, ...] = ()) -> Iterator[None]:
    """A loop that shows a frame every few milliseconds to whoever looks, as the daemon's does."""
    ended = threading.Event()

    def show() -> None:
        index = 0
        while not ended.wait(0.005):
            if preview.watched:
                preview.show(Frame(picture() if image is None else image, 100 + index / 10, index), reports)
                index += 1

    thread = threading.Thread(target=show)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def ask(path: Path, request: bytes) -> tuple[dict[str, object], bytes]:
    """A request as it is; the answer's header and all that follows until the connection ends."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5)
        connection.connect(str(path))
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
        with connection.makefile("rb") as answers:
            header, rest = json.loads(answers.readline()), b""
            # What it has not read of an oversize request, it resets.
            with contextlib.suppress(ConnectionResetError):
                rest = answers.read()
            return header, rest


def test_a_frame_is_told_with_its_faces_and_decisions(preview: Preview, client: PreviewClient) -> None:
    with showing(preview, reports=(report(),)):
        answer = client.next(picture=WantedPicture(format="raw"))
    header = answer.header
    assert (header.width, header.height, header.fault, header.error) == (64, 48, None, None)
    assert header.index is not None
    assert header.captured_s == 100 + header.index / 10
    assert answer.image is not None
    assert np.array_equal(answer.image, picture())
    [face] = header.faces
    assert face.model_dump(exclude={"quality"}) == {
        "box": (10.5, 12, 30, 31),
        "landmarks": [(20, 20), (30, 20), (25, 25)],
        "detector_score": 0.95,
        "track": 7,
        "final": True,
        "verdict": "identified",
        "reason": "match",
        "subject_id": "E1",
        "score": 0.8,
        "margin": pytest.approx(0.3),
        "threshold": 0.6,
        "frames": 3,
        "pad": {"score": 0.9, "threshold": 0.7, "passed": True},
    }
    assert face.quality == QUALITY


def test_a_jpeg_comes_in_the_size_that_was_asked_for(preview: Preview, client: PreviewClient) -> None:
    with showing(preview):
        answer = client.next(picture=WantedPicture(longest_px=32, quality=90))
    sent = answer.header.picture
    assert sent is not None
    assert (sent.format, sent.width, sent.height, sent.bytes) == ("jpeg", 32, 24, len(answer.picture))
    decoded = cv2.imdecode(np.frombuffer(answer.picture, np.uint8), cv2.IMREAD_COLOR)
    assert decoded is not None
    assert decoded.shape == (24, 32, 3)
    # Of the camera's frame, in which the boxes are.
    assert (answer.header.width, answer.header.height) == (64, 48)


def test_without_a_wish_for_it_no_picture_is_sent(preview: Preview, client: PreviewClient) -> None:
    with showing(preview):
        answer = client.next()
    assert answer.header.index is not None
    assert (answer.header.picture, answer.picture, answer.image) == (None, b"", None)


def test_a_client_gets_newer_frames_and_no_more_than_ten_a_second(preview: Preview, client: PreviewClient) -> None:
    indexes: list[int | None] = [None]
    with showing(preview):
        began_s = time.monotonic()
        for _ in range(6):
            indexes.append(client.next(after=indexes[-1]).header.index)
        took_s = time.monotonic() - began_s
    seen = [index for index in indexes if index is not None]
    assert len(seen) == 6
    assert seen == sorted(set(seen))
    # The first may come a little early.
    assert took_s >= 0.4


def test_when_no_newer_frame_comes_it_is_said_in_time(preview: Preview, client: PreviewClient) -> None:
    with showing(preview):
        index = client.next().header.index
    last = client.next(after=index, timeout_s=0.2).header.index
    began_s = time.monotonic()
    answer = client.next(after=index if last is None else last, timeout_s=0.2)
    assert time.monotonic() - began_s < 2
    assert (answer.header.index, answer.header.fault, answer.picture) == (None, None, b"")


def test_a_fault_of_the_camera_is_told_while_somebody_waits(preview: Preview, client: PreviewClient) -> None:
    threading.Timer(0.2, preview.tell_fault, ["/dev/video0: has stopped delivering"]).start()
    began_s = time.monotonic()
    assert client.next(timeout_s=8).header.fault == "/dev/video0: has stopped delivering"
    assert client.next(timeout_s=8).header.fault == "/dev/video0: has stopped delivering"
    assert time.monotonic() - began_s < 4
    preview.tell_fault(None)
    with showing(preview):
        header = client.next(timeout_s=8).header
    assert header.index is not None
    assert header.fault is None


def test_no_frame_is_kept_of_before_a_fault_or_for_nobody(preview: Preview, client: PreviewClient) -> None:
    with showing(preview):
        client.next()
    preview.tell_fault("gone")
    assert client.next(timeout_s=0).header.index is None
    client.close()
    deadline_s = time.monotonic() + 5
    while preview.watched and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert not preview.watched
    preview.tell_fault(None)
    preview.show(Frame(picture(), 1.0, 99), ())
    assert client.next(timeout_s=0).header.index is None


@pytest.mark.parametrize(
    ("request_line", "told"),
    [
        (b"hello\n", "Invalid JSON"),
        (b"[]\n", "request: "),
        (b'{"after": "x"}\n', "after: "),
        (b'{"timeout_s": 1e9}\n', "timeout_s: "),
        (b'{"picture": {"format": "png"}}\n', "picture.format: "),
        (b'{"picture": {"longest_px": 0}}\n', "picture.longest_px: "),
        (b'{"version": 2}\n', "version: "),
        (b'{"store": "please"}\n', "store: "),
        (b'{"after": 1', "one line of JSON"),
        (b"x" * 100_000 + b"\n", "at most 4096 bytes"),
        (b"\xff\xfe\n", "request: "),
    ],
)
def test_what_is_no_request_ends_that_connection_only(
    preview: Preview, client: PreviewClient, path: Path, request_line: bytes, told: str
) -> None:
    client.next(timeout_s=0)
    header, rest = ask(socket_path(path), request_line)
    assert told in str(header["error"])
    assert rest == b""
    with showing(preview):
        assert client.next().header.index is not None


@pytest.mark.usefixtures("preview")
def test_a_fifth_client_is_told_to_come_back(path: Path) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(PreviewClient(socket_path(path))).next(timeout_s=0)
        with pytest.raises(UnavailableError, match="4 others look already"):
            PreviewClient(socket_path(path)).next(timeout_s=0)


def test_a_client_that_reads_nothing_slows_nobody(preview: Preview, client: PreviewClient, path: Path) -> None:
    large: Image = np.zeros((2000, 2000, 3), np.uint8)
    with socket.socket(socket.AF_UNIX) as slow, showing(preview, large):
        slow.connect(str(socket_path(path)))
        slow.sendall(b'{"picture": {"format": "raw"}}\n' * 3)
        time.sleep(0.3)
        began_s = time.monotonic()
        preview.show(Frame(large, 1.0, 1_000_000), ())
        assert time.monotonic() - began_s < 0.5
        assert client.next().header.index is not None


def test_only_its_own_user_may_look() -> None:
    # Not below pytest's folder, which nobody else reaches.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kiosk.sock"
        preview = Preview(path)
        preview.start()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        if os.geteuid() == 0:
            # Even where the modes would let others in.
            Path(folder).chmod(0o755)
            path.chmod(0o666)
            script = (
                "import os, socket, sys; os.setgid(65534); os.setuid(65534); s = socket.socket(socket.AF_UNIX);"
                "s.connect(sys.argv[1]); print(s.recv(9999).decode())"
            )
            tried = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=True)
            assert "only the kiosk's own user may look" in tried.stdout
        preview.stop()


def test_where_no_kiosk_runs_it_is_said_so(path: Path, preview: Preview) -> None:
    with pytest.raises(UnavailableError, match=r"other\.sock: no kiosk runs there; start it with `kiosk run`"):
        PreviewClient(path.with_name("other.sock")).next()
    preview.stop()
    assert not socket_path(path).exists()
    with pytest.raises(UnavailableError, match="no kiosk runs there"):
        PreviewCamera(socket_path(path))


def test_the_socket_of_a_killed_kiosk_is_replaced_and_a_file_is_not(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(socket_path(path)))
    with pytest.raises(UnavailableError, match="no kiosk runs there"):
        PreviewClient(socket_path(path)).next()
    preview = Preview(socket_path(path))
    preview.start()
    with PreviewClient(socket_path(path)) as client:
        client.next(timeout_s=0)
    preview.stop()
    socket_path(path).write_text("somebody's", encoding="utf-8")
    with pytest.raises(UnavailableError, match="already in use"):
        Preview(socket_path(path)).start()
    assert socket_path(path).read_text(encoding="utf-8") == "somebody's"


def test_a_door_does_without_a_preview(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    socket_path(path).write_text("somebody's", encoding="utf-8")
    with contextlib.ExitStack() as stack:
        preview = _open_preview(stack, load(None, {"KIOSK_STORE__PATH": str(path)}))
        assert "no preview, and no enrollment with this camera" in caplog.text
        preview.tell_fault("gone")
        assert not preview.watched
    assert socket_path(path).exists()


def test_a_path_may_be_longer_than_a_socket_address(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 120)
    folder.mkdir()
    preview = Preview(folder / "kiosk.sock")
    preview.start()
    with PreviewClient(folder / "kiosk.sock") as client:
        client.next(timeout_s=0)
    preview.stop()


def test_a_kiosk_that_has_restarted_is_found_again(path: Path, preview: Preview, client: PreviewClient) -> None:
    client.next(timeout_s=0)
    preview.stop()
    again = Preview(socket_path(path))
    again.start()
    with showing(again):
        # The frame that is shown is another one, though its index may be the same.
        assert client.next(after=10**9).header.index is not None
    again.stop()
    with pytest.raises(UnavailableError, match="no kiosk runs there"):
        client.next()


def test_the_preview_is_a_camera(path: Path, preview: Preview) -> None:
    camera = PreviewCamera(socket_path(path))
    with showing(preview):
        frames = [frame for frame in (camera.read(2.0), camera.read(2.0)) if frame is not None]
    assert [frame.image.shape for frame in frames] == [(48, 64, 3)] * 2
    assert frames[0].index < frames[1].index
    assert camera.condition.frames == 2
    preview.tell_fault("/dev/video0: has stopped delivering")
    assert camera.read(0.1) is None
    assert camera.fault == "/dev/video0: has stopped delivering"
    preview.stop()
    with pytest.raises(UnavailableError, match="no kiosk runs there"):
        camera.read(0.1)
    camera.close()


@contextlib.contextmanager
def running(kiosk: Kiosk, **camera: object) -> Iterator[subprocess.Popen[str]]:
    """``kiosk run`` whose socket is there; ended at the end."""
    kiosk.configure(camera=camera)
    process = kiosk.start("run")
    try:
        wait_for(lambda: socket_path(kiosk.store).exists() or process.poll() is not None, 30, what="socket")
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        sys.stderr.write(process.communicate(timeout=10)[1] or "")


def test_the_daemon_shows_who_is_there_and_what_became_of_it(kiosk: Kiosk, samples: Path) -> None:
    enroll_people(kiosk, samples)
    clip = kiosk.folder / "clip.avi"
    obama = Person(cv2.imread(str(samples / "obama2.jpg")), Box(115, 181, 181, 181))  # type: ignore[arg-type]
    write_clip(clip, [Scene(2.0, (Walk(obama, x=(0.45, 0.55), face_px=(120, 130)),))])
    # What a killed daemon leaves.
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(socket_path(kiosk.store)))
    with running(kiosk, source=str(clip), loop=True) as daemon, PreviewClient(socket_path(kiosk.store)) as client:

        def look() -> Header:
            with contextlib.suppress(UnavailableError):
                return client.next(after=headers[-1].index, picture=WantedPicture(longest_px=320)).header
            return headers[-1]

        headers = [Header()]
        wait_for(lambda: headers.append(look()) or headers[-1].outcomes, 30, what="a check-in")
        headers += [look() for _ in range(5)]
        outcomes = headers[-1].outcomes
        assert [(o.event_type, o.seq, o.subject_id, o.reason) for o in outcomes] == [("check_in", 1, "obama", None)]
        faces = [face for header in headers for face in header.faces]
        assert ("identified", "obama") in {(face.verdict, face.subject_id) for face in faces}
        assert all(face.quality is not None and face.quality.eye_distance_px for face in faces)
        # Who has this socket knows ids; names are in the store.
        assert not any("Barack" in header.model_dump_json() for header in headers)
        assert headers[-1].picture is not None
        assert headers[-1].picture.width == 320
        daemon.terminate()
        assert daemon.wait(15) == 0
    assert not socket_path(kiosk.store).exists()


def test_the_daemon_tells_that_its_camera_is_gone(kiosk: Kiosk) -> None:
    server = MjpegServer(size=(320, 240))
    server.start()
    with running(kiosk, source=server.url), contextlib.closing(PreviewCamera(socket_path(kiosk.store))) as camera:
        frame = camera.read(5)
        assert frame is not None
        assert frame.image.shape == (240, 320, 3)
        server.stop()
        wait_for(lambda: camera.read(0.5) is None and camera.fault is not None, 15, what="fault")
        assert "connection refused" in str(camera.fault)
        server.start()
        wait_for(lambda: camera.read(0.5) is not None, 15, what="pictures")
        assert camera.fault is None
    server.stop()
