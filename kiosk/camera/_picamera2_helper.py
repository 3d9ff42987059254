"""Run by the system's Python, where picamera2 lives: a camera's newest picture into shared memory, whenever asked.

:mod:`kiosk.camera._picamera2` starts it, with its wishes as JSON in the only argument, and speaks with it by pipes: a
byte on standard input asks for a picture, each line of JSON on standard output is an answer. The picture lies in the
memory file that it got (BGR, rows from the top, without padding). It imports nothing of the kiosk, for that Python has
none of the kiosk's packages, and ends as soon as standard input does.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import queue
import signal
import sys
import threading
import time
from typing import Any, NoReturn

_PR_SET_PDEATHSIG = 1
# For the camera to be released before the process ends all the same.
_GRACE_S = 1.5
# Of a sensor's view: what is left out at its edges is still all of it.
_WHOLE_VIEW = 0.95
_MICROSECONDS = 1_000_000
# In picamera2's words, of today and of earlier versions (-EBUSY).
_BUSY = ("Device or resource busy", "code: -16")


def main() -> None:
    wishes: dict[str, Any] = json.loads(sys.argv[1])
    _end_with_parent(wishes["parent"])
    answers = _claim_standard_output()
    wanted: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=[wanted], daemon=True).start()
    try:
        _serve(wishes, wanted, answers)
    except _Refused as refusal:
        _tell(answers, {"refused": str(refusal.args[0]), "why": refusal.args[1]})
    except Exception as error:  # noqa: BLE001 - whatever the libraries raise: told in one line, it is a fault of the camera
        _complain(error)
    # Not through the libraries' own clean-up, which may hang.
    os._exit(0)


class _Refused(Exception):
    """What it was that failed, in a word, and the library's reason."""


def _serve(wishes: dict[str, Any], wanted: queue.SimpleQueue[bytes], answers: int) -> None:
    picamera2 = _load_library()
    models = _find_cameras(picamera2.Picamera2)
    index = wishes["index"]
    if index is None:
        _tell(answers, {"cameras": models})
        return
    if index >= len(models):
        raise _Refused("place" if models else "absent", ", ".join(models))
    try:
        camera = picamera2.Picamera2(index)
    except Exception as error:
        why = _words(error)
        raise _Refused("busy" if any(mark in why for mark in _BUSY) else "open", why) from error
    try:
        opened = _start(camera, wishes)
    except Exception as error:
        width, height = wishes["size"]
        raise _Refused("format", f"{width} x {height} pixels at {wishes['fps']}/s: {_words(error)}") from error
    slot = _map(wishes["memory"], *opened["size"])
    _tell(answers, opened | {"model": models[index]})
    while wanted.get():
        _tell(answers, {"taken_ns": _copy_newest(camera, picamera2.MappedArray, slot)})
    camera.stop()
    camera.close()


def _load_library() -> Any:
    try:
        import picamera2
    except ModuleNotFoundError as error:
        raise _Refused("missing" if error.name == "picamera2" else "foreign", _words(error)) from error
    except Exception as error:
        # Parts that were compiled for other versions of each other fail in many ways.
        raise _Refused("foreign", _words(error)) from error
    return picamera2


def _find_cameras(picamera2: Any) -> list[str]:
    """Their models, in the order of their numbers."""
    try:
        found = picamera2.global_camera_info()
    except Exception as error:  # noqa: BLE001
        # In a sandbox without udev's messages libcamera calls it an error that there are none.
        _complain(error)
        return []
    return [str(camera.get("Model", "?")) for camera in found]


def _start(camera: Any, wishes: dict[str, Any]) -> dict[str, Any]:
    """Configure the camera and let it run. What came of the wishes."""
    import libcamera

    size, fps, upside_down = tuple(wishes["size"]), wishes["fps"], wishes["upside_down"]
    mode = _widest_mode(camera.sensor_modes, size, fps)
    offered = camera.camera_controls
    controls, ignored = _choose_controls(wishes, offered, libcamera.controls)
    configuration = camera.create_video_configuration(
        # Named as libcamera does, from the highest byte down: in memory it is blue, green, red.
        main={"size": size, "format": "RGB888"},
        transform=libcamera.Transform(hflip=upside_down, vflip=upside_down),
        controls=controls,
        **({} if mode is None else {"sensor": {"output_size": mode["size"], "bit_depth": mode["bit_depth"]}}),
    )
    camera.configure(configuration)
    got = camera.camera_configuration()
    turned = bool(got["transform"].hflip and got["transform"].vflip)
    camera.start()
    return {"size": got["main"]["size"], "turned": turned, "ignored": ignored}


def _widest_mode(modes: list[dict[str, Any]], size: tuple[int, int], fps: float) -> dict[str, Any] | None:
    """The coarsest way to read the sensor that is fast and fine enough and leaves out nothing of its view.

    Left to itself picamera2 takes the one nearest to the picture's size, which with some sensors is only their middle.
    None: there is no such way, or no sensor of its own (a USB camera).
    """
    able = [
        mode
        for mode in modes
        if mode.get("crop_limits") and mode["fps"] >= fps and mode["size"][0] >= size[0] and mode["size"][1] >= size[1]
    ]
    widest = max((_area(mode["crop_limits"][2:]) for mode in able), default=0)
    whole = [mode for mode in able if _area(mode["crop_limits"][2:]) >= _WHOLE_VIEW * widest]
    return min(whole, key=lambda mode: (_area(mode["size"]), -mode["bit_depth"]), default=None)


def _area(size: tuple[int, int]) -> int:
    return size[0] * size[1]


def _choose_controls(wishes: dict[str, Any], offered: dict[str, Any], enums: Any) -> tuple[dict[str, Any], list[str]]:
    """Controls that this camera has, and the settings for which it has none."""
    frame_us = round(_MICROSECONDS / wishes["fps"])
    longest_us = max(frame_us, round(1000 * (wishes["longest_exposure_ms"] or 0)))
    chosen: dict[str, Any] = {"FrameDurationLimits": (frame_us, longest_us)}
    asked = {"focus": ["AfMode"]}
    if wishes["focus_m"] is None:
        chosen["AfMode"] = enums.AfModeEnum.Continuous
        # A lens that cannot move needs no focus.
        asked = {}
    else:
        chosen["AfMode"] = enums.AfModeEnum.Manual
        chosen["LensPosition"] = _lens_position(wishes["focus_m"], offered)
    if wishes["exposure"] != "normal":
        chosen["AeExposureMode"] = getattr(enums.AeExposureModeEnum, wishes["exposure"].title())
        asked["exposure"] = ["AeExposureMode"]
    if wishes["ev"]:
        chosen["ExposureValue"] = wishes["ev"]
        asked["ev"] = ["ExposureValue"]
    if wishes["longest_exposure_ms"]:
        asked["longest_exposure_ms"] = ["FrameDurationLimits"]
    ignored = [setting for setting, names in asked.items() if not all(name in offered for name in names)]
    return {name: value for name, value in chosen.items() if name in offered}, ignored


def _lens_position(focus_m: float, offered: dict[str, Any]) -> float:
    """In dioptres, no nearer than the lens can."""
    nearest = float(offered.get("LensPosition", (0.0, 0.0, 0.0))[1])
    return min(1 / focus_m, nearest)


def _map(memory_fd: int, width: int, height: int) -> Any:
    """The memory as a picture."""
    import numpy as np

    os.ftruncate(memory_fd, width * height * 3)
    return np.frombuffer(mmap.mmap(memory_fd, width * height * 3), np.uint8).reshape(height, width, 3)


def _copy_newest(camera: Any, mapped_array: Any, slot: Any) -> int | None:
    """Wait for the next picture, and copy it. The sensor's time of it, nanoseconds."""
    request = camera.capture_request()
    try:
        with mapped_array(request, "main") as picture:
            # Rows may be padded there.
            slot[:] = picture.array
        taken_ns: int | None = request.get_metadata().get("SensorTimestamp")
    finally:
        request.release()
    return taken_ns


def _words(error: BaseException) -> str:
    """The reason at the bottom of it: picamera2 hides it behind one that tells nothing."""
    while error.__context__ is not None:
        error = error.__context__
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _complain(error: Exception) -> None:
    sys.stderr.write(f"{_words(error)}\n")


def _tell(answers: int, message: dict[str, Any]) -> None:
    try:
        os.write(answers, json.dumps(message).encode() + b"\n")
    except OSError:
        os._exit(0)


def _claim_standard_output() -> int:
    """What libraries print goes to standard error."""
    answers = os.dup(1)
    os.dup2(2, 1)
    return answers


def _listen(wanted: queue.SimpleQueue[bytes]) -> NoReturn:
    while asked := os.read(0, 1):
        wanted.put(asked)
    wanted.put(b"")
    time.sleep(_GRACE_S)
    os._exit(1)


def _end_with_parent(parent: int) -> None:
    # systemd and a terminal tell every process to end: which one does first is the kiosk's business.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


if __name__ == "__main__":
    main()
