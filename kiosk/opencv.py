"""OpenCV, imported with its environment set first: it reads these variables once, when it is loaded."""

import os

# 64 megapixels: phone photos pass, a 20000 × 20000 bomb (1.2 GB decoded) does not.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(64 * 1024 * 1024))
os.environ.setdefault("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", "3")
os.environ.setdefault("OPENCV_FFMPEG_CAPTURE_OPTIONS", "rtsp_transport;tcp")
os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")

import cv2  # noqa: E402

__all__ = ["cv2"]
