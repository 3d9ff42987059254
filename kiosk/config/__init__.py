"""The configuration: one YAML file, overlaid by environment variables, checked as a whole before anything starts."""

from kiosk.config._fields import FieldGuide, field_guides, section_guides
from kiosk.config._former import FORMER, Former
from kiosk.config._loading import Loaded, Origin, find_file, load, load_traced
from kiosk.config._migrating import Rewritten, rewrite
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
    "FORMER",
    "AttendanceSection",
    "CameraSection",
    "CodeSection",
    "Config",
    "DeviceSection",
    "FaceSection",
    "FeedbackSection",
    "FieldGuide",
    "Former",
    "Loaded",
    "MatchSection",
    "ModelSection",
    "MqttSection",
    "Origin",
    "PadSection",
    "Rewritten",
    "Section",
    "StoreSection",
    "TlsSection",
    "WebSection",
    "WebTlsSection",
    "field_guides",
    "find_file",
    "load",
    "load_traced",
    "rewrite",
    "section_guides",
]
