"""What the kiosk uses of libcamera's Python binding; nothing else is here."""

from enum import Enum
from types import SimpleNamespace


class Transform:
    def __init__(self, *, hflip: bool = False, vflip: bool = False) -> None:
        self.hflip, self.vflip = int(hflip), int(vflip)


class AfModeEnum(Enum):
    Manual = 0
    Auto = 1
    Continuous = 2


class AeExposureModeEnum(Enum):
    Normal = 0
    Short = 1
    Long = 2


controls = SimpleNamespace(AfModeEnum=AfModeEnum, AeExposureModeEnum=AeExposureModeEnum)
