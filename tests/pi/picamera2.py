"""A stand-in for picamera2: the documented calls that the kiosk uses, with a camera that fails when it is told to.

It has no others, and takes no arguments that picamera2 does not take: whatever else the kiosk tried would raise.
In the folder ``$PI_CAMERA`` the file ``faults`` holds what is wrong now; ``asked`` gets what it was configured with.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import time
from pathlib import Path
from typing import Any, Self

import libcamera
import numpy as np

_FOLDER = Path(os.environ["PI_CAMERA"])
_STARTED_S = time.monotonic()


def _faults() -> set[str]:
    return set((_FOLDER / "faults").read_text().split())


if "foreign" in _faults():
    raise ValueError("numpy.dtype size changed, may indicate binary incompatibility")


class Picamera2:
    def __init__(self, camera_num: int = 0) -> None:
        if "busy" in _faults():
            self._fail_to_open()
        if "late" in _faults():
            time.sleep(600)
        self._number = camera_num
        self._given = 0
        self._started = False
        self._still: np.ndarray | None = None
        self._noise = np.random.default_rng(1)

    @staticmethod
    def _fail_to_open() -> None:
        try:
            raise RuntimeError("Failed to acquire camera: Device or resource busy")  # noqa: TRY301
        except RuntimeError:
            # What tells something is only the context of what is raised.
            raise RuntimeError("Camera __init__ sequence did not complete.")  # noqa: B904

    @staticmethod
    def global_camera_info() -> list[dict[str, Any]]:
        if "unstartable" in _faults():
            raise RuntimeError("Failed to start CameraManager")
        models = [] if "absent" in _faults() else ["imx708_wide", "ov5647"]
        return [{"Model": model, "Location": 2, "Rotation": 0, "Id": f"/base/{model}"} for model in models]

    @property
    def sensor_modes(self) -> list[dict[str, Any]]:
        whole, middle = (0, 0, 4608, 2592), (768, 432, 3072, 1728)
        sizes = [((1536, 864), 120.13, middle), ((2304, 1296), 56.03, whole), ((4608, 2592), 14.35, whole)]
        return [
            {"format": f"SRGGB{bits}", "unpacked": "", "bit_depth": bits, "size": size, "fps": fps, "crop_limits": crop}
            for bits in (8, 10)
            for size, fps, crop in sizes
        ]

    @property
    def camera_controls(self) -> dict[str, tuple[Any, Any, Any]]:
        lens = {} if "fixed" in _faults() else {"AfMode": (0, 2, 0), "LensPosition": (0.0, 15.0, 1.0)}
        return lens | {
            "FrameDurationLimits": (8333, 120000, 33333),
            "ExposureValue": (-8.0, 8.0, 0.0),
            "AeExposureMode": (0, 3, 0),
        }

    def create_video_configuration(
        self,
        main: dict[str, Any],
        *,
        transform: libcamera.Transform,
        controls: dict[str, Any],
        sensor: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        return {"main": main, "transform": transform, "controls": controls, "sensor": sensor}

    def configure(self, camera_config: dict[str, Any]) -> None:
        main = camera_config["main"]
        if main["size"][0] % 2 or main["size"][1] % 2:
            raise RuntimeError("width and height should be even")
        assert main.keys() == {"size", "format"}
        assert main["format"] == "RGB888"
        assert camera_config["controls"].keys() <= self.camera_controls.keys()
        self._config = camera_config | {"main": dict(main)}
        if "smaller" in _faults():
            self._config["main"]["size"] = (32, 24)
        if "unturned" in _faults():
            self._config["transform"] = libcamera.Transform()
        transform = camera_config["transform"]
        asked = camera_config | {"transform": [transform.hflip, transform.vflip], "camera": self._number}
        (_FOLDER / "asked").write_text(json.dumps(asked, default=lambda value: value.name))

    def camera_configuration(self) -> dict[str, Any]:
        return self._config

    def start(self) -> None:
        self._started = True
        (_FOLDER / "pid").write_text(str(os.getpid()))

    def capture_request(self) -> CompletedRequest:
        """The newest frame, when there is one that was not given yet."""
        assert self._started
        faults = _faults()
        if "dies" in faults:
            print("ERROR RPI pipeline_base.cpp:1 Camera frontend has timed out!", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        if "raises" in faults:
            raise RuntimeError("Camera frontend is gone")
        if "silent" in faults:
            time.sleep(600)
        if "hangs" in faults:
            # In a call that keeps the interpreter to itself.
            ctypes.PyDLL(None).sleep(600)
        if "slow" in faults:
            time.sleep(0.35)
        interval_s = self._config["controls"]["FrameDurationLimits"][0] / 1e6
        while (number := int((time.monotonic() - _STARTED_S) / interval_s)) <= self._given:
            time.sleep(max((self._given + 1) * interval_s - (time.monotonic() - _STARTED_S), 0.0005))
        self._given = number
        return CompletedRequest(self._picture(number, faults), time.monotonic_ns() - 20_000_000)

    def _picture(self, number: int, faults: set[str]) -> np.ndarray:
        width, height = self._config["main"]["size"]
        if "frozen" in faults and self._still is not None:
            return self._still
        # Rows are padded, as hardware has it.
        padded = self._noise.integers(0, 3, (height, width * 3 + 64), np.uint8) + 90
        picture = padded[:, : width * 3].reshape(height, width, 3)
        picture[: height // 2] += np.array([100, 50, 0], np.uint8)
        picture[0, 0] = [number // 65536 % 256, number // 256 % 256, number % 256]
        if self._config["transform"].hflip:
            picture = picture[::-1, ::-1]
        self._still = picture
        return picture

    def stop(self) -> None:
        self._started = False

    def close(self) -> None:
        assert not self._started
        (_FOLDER / "closed").touch()


class CompletedRequest:
    def __init__(self, picture: np.ndarray, taken_ns: int) -> None:
        self.picture: np.ndarray | None = picture
        self._taken_ns = taken_ns

    def get_metadata(self) -> dict[str, Any]:
        assert self.picture is not None
        return {} if "untimed" in _faults() else {"SensorTimestamp": self._taken_ns, "ExposureTime": 9000}

    def release(self) -> None:
        assert self.picture is not None
        self.picture = None


class MappedArray:
    def __init__(self, request: CompletedRequest, stream: str) -> None:
        assert stream == "main"
        self._request = request

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    @property
    def array(self) -> np.ndarray:
        assert self._request.picture is not None
        return self._request.picture
