"""OpenCV, imported with its environment set first: it reads these variables once, when it is loaded."""

import os

# The last net, for a header that a decoder reads in another way than kiosk.encoded does.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", "64000000")
# Seconds a stalled V4L2 camera may block one read; OpenCV's own value is 10.
os.environ.setdefault("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", "3")
# UDP loses packets, and with them half pictures arrive. Of FFmpeg's 300 formats a camera needs a handful: others follow
# links to elsewhere (HLS), or take a hundred megabytes for a damaged kilobyte (Matroska).
os.environ.setdefault(
    "OPENCV_FFMPEG_CAPTURE_OPTIONS",
    "rtsp_transport;tcp|format_whitelist;mpjpeg,mjpeg,rtsp,sdp,rtp,mpegts,h264,hevc,avi,mov,flv",
)
# An error is our one line: nothing else may write to stderr. -8 is FFmpeg's AV_LOG_QUIET.
os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

import cv2

__all__ = ["cv2"]
