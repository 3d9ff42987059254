"""Attendance kiosk: camera frames in, check-in events out."""

__version__ = "0.1.0"
