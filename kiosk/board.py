"""The computer the kiosk runs on: heat, power and storage, as the kernel tells them in plain files.

Nothing here needs more rights than the sandboxed service has. Whatever a machine does not tell is None.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path

HOT_C = 80.0
"""From here on a Raspberry Pi slows itself down."""
COOL_C = 75.0
"""Below it that is over."""

# What the firmware of a Raspberry Pi says of itself (get_throttled).
_UNDERVOLTAGE = 1 << 0
_SLOWED = 1 << 1 | 1 << 2
_HAS_OCCURRED = 16
"""The same bits again, so much higher: it was so at some time. The kernel clears them whenever it has looked, every two
seconds, so that they tell of more only where nothing looks."""

_LOOK_EVERY_S = 1.0
_LOOK_AT_STORAGE_EVERY_S = 60.0
_KEEP_TELLING_S = 3600.0
_WORN_PERCENT = 90


@dataclass(frozen=True, slots=True)
class BoardCondition:
    """How the board is. ``…_seen``: now or at some time since this process began to look."""

    undervoltage: bool | None
    undervoltage_seen: bool | None
    throttled: bool | None
    """Slowed down by its firmware, for heat or for want of power."""
    throttled_seen: bool | None
    disk_errors: int | None
    """Of all ext4 file systems, counted in them until they are repaired."""
    wear_percent: int | None
    """Of the life of the most worn eMMC, in tens; over 100: outlived. Ordinary SD cards do not tell."""


@dataclass(frozen=True, slots=True)
class Memory:
    """A memory card or chip. ``kind``: ``SD``, ``MMC`` (eMMC) or what else the kernel calls it."""

    device: str
    kind: str
    wear_percent: int | None
    reserve: str | None
    """Spare blocks left: ``normal``, ``warning`` (80 % are used) or ``urgent`` (90 %)."""


class Board:
    """``root``: where ``/sys`` and ``/proc`` are. The files are found once, and read at most once a second."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._temperature = _find_thermometer(root)
        self._alarm = _find_alarm(root)
        self._throttled = next(iter(sorted(root.glob("sys/devices/platform/soc*/*:firmware/get_throttled"))), None)
        self._looked_s = self._looked_at_storage_s = -_KEEP_TELLING_S
        self._temperature_c: float | None = None
        self._hot = False
        self._bits: int | None = None
        self._undervoltage: bool | None = None
        self._undervoltage_seen_s: float | None = None
        self._throttled_seen = False
        self._disk_errors: dict[str, int] = {}
        self._memories: list[Memory] = []

    @property
    def model(self) -> str | None:
        """What the board calls itself, ``Raspberry Pi 5 Model B Rev 1.0`` say."""
        text = _read(self._root / "proc/device-tree/model") or _read(self._root / "sys/class/dmi/id/product_name")
        return None if text is None else text.strip("\0 ") or None

    @property
    def temperature_c(self) -> float | None:
        """The processor's."""
        self._look()
        return self._temperature_c

    @property
    def memories(self) -> list[Memory]:
        """Cards and eMMC, by name."""
        self._look_at_storage()
        return self._memories

    @property
    def disk_errors(self) -> dict[str, int]:
        """By ext4 file system (``mmcblk0p2``); file systems of other kinds do not count them."""
        self._look_at_storage()
        return self._disk_errors

    def condition(self) -> BoardCondition:
        """As it is, at most a second old; storage a minute."""
        self._look()
        errors, worn = self.disk_errors, [one.wear_percent for one in self.memories if one.wear_percent is not None]
        throttled = None if self._bits is None else bool(self._bits & _SLOWED)
        return BoardCondition(
            undervoltage=self._undervoltage,
            undervoltage_seen=None if self._undervoltage is None else self._undervoltage_seen_s is not None,
            throttled=throttled,
            throttled_seen=None if throttled is None else self._throttled_seen,
            disk_errors=sum(errors.values()) if errors else None,
            wear_percent=max(worn, default=None),
        )

    def too_hot(self) -> str | None:
        """Why less should be done for a while, in words; None: no need to. Cheap enough to ask for every frame."""
        self._look()
        if self._hot:
            return f"the processor is at {self._temperature_c:.0f} °C"
        if self._bits is not None and self._bits & _SLOWED and not self._bits & _UNDERVOLTAGE:
            return "the board has slowed itself down for its heat"
        return None

    def power_problem(self) -> str | None:
        """What is wrong with the supply, and what to do; told for an hour after it was last so."""
        self._look()
        seen_s = self._undervoltage_seen_s
        if seen_s is None or time.monotonic() - seen_s > _KEEP_TELLING_S:
            return None
        when = "is" if self._undervoltage else "was within the last hour"
        return f"the supply voltage {when} too low: use the board's own power supply, a short cable, fewer USB devices"

    def heat_problem(self) -> str | None:
        """The same of heat, while it lasts."""
        hot = self.too_hot()
        return None if hot is None else f"{hot}: give it air or a cooler, keep it out of the sun"

    def storage_problems(self) -> list[str]:
        """The same of storage."""
        problems = [
            f"{count} errors on the file system {name}: copy the backups elsewhere, check it (`fsck`), change the disk"
            for name, count in self.disk_errors.items()
            if count
        ]
        for one in self.memories:
            worn = one.wear_percent is not None and one.wear_percent >= _WORN_PERCENT
            if worn or one.reserve in {"warning", "urgent"}:
                problems.append(f"{describe_wear(one)}: copy the backups elsewhere and change it")
        return problems

    def _look(self) -> None:
        now_s = time.monotonic()
        if now_s - self._looked_s < _LOOK_EVERY_S:
            return
        self._looked_s = now_s
        millidegrees = _read_int(self._temperature, 10)
        self._temperature_c = None if millidegrees is None else millidegrees / 1000
        self._hot = (self._temperature_c or 0.0) >= (COOL_C if self._hot else HOT_C)
        alarm, self._bits = _read_int(self._alarm, 10), _read_int(self._throttled, 16)
        bits = self._bits or 0
        if alarm is not None:
            self._undervoltage = bool(alarm)
        else:
            self._undervoltage = None if self._bits is None else bool(bits & _UNDERVOLTAGE)
        if self._undervoltage or bits >> _HAS_OCCURRED & _UNDERVOLTAGE:
            self._undervoltage_seen_s = now_s
        self._throttled_seen = self._throttled_seen or bool((bits | bits >> _HAS_OCCURRED) & _SLOWED)

    def _look_at_storage(self) -> None:
        now_s = time.monotonic()
        if now_s - self._looked_at_storage_s < _LOOK_AT_STORAGE_EVERY_S:
            return
        self._looked_at_storage_s = now_s
        counts = ((path.parent.name, _read_int(path, 10)) for path in self._root.glob("sys/fs/ext4/*/errors_count"))
        self._disk_errors = {name: count for name, count in sorted(counts) if count is not None}
        # Not mmcblk0boot0 and mmcblk0rpmb, which are parts of mmcblk0.
        blocks = [path for path in self._root.glob("sys/block/mmcblk*") if re.fullmatch(r"mmcblk\d+", path.name)]
        self._memories = [_read_memory(path) for path in sorted(blocks)]


def describe_wear(memory: Memory) -> str:
    """What a card or chip tells of its life, in words."""
    if memory.wear_percent is None and memory.reserve is None:
        return f"{memory.device}: {memory.kind} tells nothing of its wear"
    used = "" if memory.wear_percent is None else _describe_percent(memory.wear_percent)
    reserve = "" if memory.reserve is None else f"spare blocks: {memory.reserve}"
    return f"{memory.device}: {memory.kind}, {', '.join(part for part in (used, reserve) if part)}"


def _describe_percent(percent: int) -> str:
    return "its life is used up" if percent > 100 else f"up to {percent} % of its life is used"


def _find_thermometer(root: Path) -> Path | None:
    """Of the processor: what the first zone measures need not be it on a PC."""
    zones = sorted(root.glob("sys/class/thermal/thermal_zone*"), key=lambda zone: (len(zone.name), zone.name))
    readable = [zone for zone in zones if _read_int(zone / "temp", 10) is not None]
    named = [zone for zone in readable if re.search("cpu|soc|pkg", _read(zone / "type") or "")]
    return next((zone / "temp" for zone in (*named, *readable)), None)


def _find_alarm(root: Path) -> Path | None:
    """Of a Raspberry Pi, for undervoltage: set for about two seconds by each look of the kernel's that finds it."""
    for folder in sorted(root.glob("sys/class/hwmon/hwmon*")):
        if _read(folder / "name") == "rpi_volt" and _read_int(folder / "in0_lcrit_alarm", 10) is not None:
            return folder / "in0_lcrit_alarm"
    return None


def _read_memory(block: Path) -> Memory:
    # JEDEC: two estimates, for the two kinds of cells it may have, in tens of percent; 11: outlived; 0: not told.
    estimates = [int(text, 16) for text in re.findall("0x[0-9a-f]+", _read(block / "device/life_time") or "")]
    tens = max((value for value in estimates if 0 < value <= 11), default=None)
    reserve = {1: "normal", 2: "warning", 3: "urgent"}.get(_read_int(block / "device/pre_eol_info", 16) or 0)
    kind = _read(block / "device/type") or "card"
    return Memory(block.name, kind, None if tens is None else tens * 10, reserve)


def _read(path: Path | None) -> str | None:
    try:
        return None if path is None else path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def _read_int(path: Path | None, base: int) -> int | None:
    try:
        return int(_read(path) or "", base)
    except ValueError:
        return None
