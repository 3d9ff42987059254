"""The configuration: one YAML file, overlaid by environment variables, checked as a whole before anything starts."""

from kiosk.config._fields import FieldGuide, field_guides, section_guides
from kiosk.config._loading import load
from kiosk.config._models import (
    AttendanceSection,
    CameraSection,
    CodeSection,
    Config,
    DeviceSection,
    FaceSection,
    FeedbackSection,
    MatchSection,
    ModelSection,
    MqttSection,
    PadSection,
    Section,
    StoreSection,
    TlsSection,
    WebSection,
    WebTlsSection,
)

__all__ = [
    "AttendanceSection",
    "CameraSection",
    "CodeSection",
    "Config",
    "DeviceSection",
    "FaceSection",
    "FeedbackSection",
    "FieldGuide",
    "MatchSection",
    "ModelSection",
    "MqttSection",
    "PadSection",
    "Section",
    "StoreSection",
    "TlsSection",
    "WebSection",
    "WebTlsSection",
    "field_guides",
    "load",
    "section_guides",
]
