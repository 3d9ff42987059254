"""What the kernel tells of the computer, by files of its own making: no such board is at hand."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from kiosk import board
from kiosk.board import Board, BoardCondition, Memory, describe_wear

THROTTLED = "sys/devices/platform/soc/soc:firmware/get_throttled"
ALARM = "sys/class/hwmon/hwmon1/in0_lcrit_alarm"
TEMPERATURE = "sys/class/thermal/thermal_zone0/temp"
UNTOLD = BoardCondition(
    undervoltage=None,
    undervoltage_seen=None,
    throttled=None,
    throttled_seen=None,
    disk_errors=None,
    wear_percent=None,
)


def write(root: Path, **files: str) -> None:
    """Files by their path."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def raspberry_pi(root: Path, *, throttled: str = "0", alarm: str = "0", temperature: str = "51121") -> Path:
    """The files of a Raspberry Pi with its card and an ext4 file system."""
    files = {
        "proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.5\0",
        "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
        TEMPERATURE: f"{temperature}\n",
        "sys/class/hwmon/hwmon0/name": "cpu_thermal\n",
        "sys/class/hwmon/hwmon1/name": "rpi_volt\n",
        ALARM: f"{alarm}\n",
        THROTTLED: f"{throttled}\n",
        "sys/block/mmcblk0/device/type": "SD\n",
        "sys/fs/ext4/features/batched_discard": "supported\n",
        "sys/fs/ext4/mmcblk0p2/errors_count": "0\n",
    }
    write(root, **files)
    return root


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds, to be moved on by hand."""
    now_s = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now_s[0])
    return now_s


def test_a_machine_that_tells_nothing(tmp_path: Path) -> None:
    silent = Board(tmp_path)
    assert (silent.model, silent.temperature_c, silent.too_hot(), silent.storage_problems()) == (None, None, None, [])
    assert (silent.condition(), silent.memories, silent.disk_errors) == (UNTOLD, [], {})


def test_this_machine_can_be_asked() -> None:
    here = Board()
    assert here.temperature_c is None or -40 < here.temperature_c < 120
    assert here.condition().undervoltage in {None, False}


def test_a_raspberry_pi_that_is_well(tmp_path: Path) -> None:
    well = Board(raspberry_pi(tmp_path))
    assert well.model == "Raspberry Pi 4 Model B Rev 1.5"
    assert well.temperature_c == pytest.approx(51.121)
    assert well.condition() == BoardCondition(
        undervoltage=False,
        undervoltage_seen=False,
        throttled=False,
        throttled_seen=False,
        disk_errors=0,
        wear_percent=None,
    )
    assert (well.power_problem(), well.heat_problem(), well.storage_problems()) == (None, None, [])
    assert [describe_wear(one) for one in well.memories] == ["mmcblk0: SD tells nothing of its wear"]


def test_too_hot_until_it_is_clearly_cooler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board, "_LOOK_EVERY_S", 0)
    pi = raspberry_pi(tmp_path)
    (file,) = pi.glob("sys/class/thermal/thermal_zone0/temp")
    watched = Board(pi)
    told = []
    for millidegrees in ("55000", "79900", "80100", "77000", "75000", "74900", "79000", "nonsense", "85000"):
        file.write_text(millidegrees)
        told.append(watched.too_hot())
    assert [None if words is None else words[-5:] for words in told] == [
        None, None, "80 °C", "77 °C", "75 °C", None, None, None, "85 °C",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("throttled", "alarm", "now", "seen", "slowed", "slowed_before"),
    [
        ("50005", "1", True, True, True, True),
        ("50000", "0", False, True, False, True),
        # The soft limit of a 3B+, at 60 °C, is no trouble.
        ("80008", "0", False, False, False, False),
        ("20002", "0", False, False, True, True),
        ("not a number", "1", True, True, None, None),
        ("1", "not a number", True, True, False, False),
    ],
)
def test_power_and_heat(
    tmp_path: Path,
    throttled: str,
    alarm: str,
    now: bool,
    seen: bool,
    slowed: bool | None,
    slowed_before: bool | None,
) -> None:
    condition = Board(raspberry_pi(tmp_path, throttled=throttled, alarm=alarm)).condition()
    assert (condition.undervoltage, condition.undervoltage_seen) == (now, seen)
    assert (condition.throttled, condition.throttled_seen) == (slowed, slowed_before)


def test_undervoltage_is_told_for_an_hour(tmp_path: Path, clock: list[float]) -> None:
    weak = Board(raspberry_pi(tmp_path, alarm="1"))
    assert "voltage is too low" in str(weak.power_problem())
    write(tmp_path, **{ALARM: "0"})
    # Read at most once a second: whoever asks for every frame costs nothing.
    clock[0] += 0.5
    assert "voltage is too low" in str(weak.power_problem())
    clock[0] += 0.6
    assert "within the last hour" in str(weak.power_problem())
    clock[0] += 3601
    assert weak.power_problem() is None
    assert weak.condition().undervoltage_seen


def test_too_hot(tmp_path: Path, clock: list[float]) -> None:
    board = Board(raspberry_pi(tmp_path, temperature="79900"))
    assert board.too_hot() is None
    clock[0] += 2
    write(tmp_path, **{TEMPERATURE: "81400"})
    assert board.too_hot() == "the processor is at 81 °C"
    assert "cooler" in str(board.heat_problem())
    clock[0] += 2
    write(tmp_path, **{TEMPERATURE: "60000", THROTTLED: "4"})
    assert "slowed" in str(board.too_hot())
    clock[0] += 2
    # For want of power: working less would not help.
    write(tmp_path, **{THROTTLED: "5"})
    assert board.too_hot() is None


def test_the_processors_thermometer_is_found(tmp_path: Path) -> None:
    zones = {"0": ("acpitz", "27800"), "1": ("x86_pkg_temp", "63000"), "10": ("cpu-thermal", "1")}
    for number, (kind, value) in zones.items():
        folder = f"sys/class/thermal/thermal_zone{number}"
        write(tmp_path, **{f"{folder}/type": kind, f"{folder}/temp": value})
    assert Board(tmp_path).temperature_c == 63


def test_the_firmware_of_other_boards_is_elsewhere(tmp_path: Path) -> None:
    write(tmp_path, **{"sys/devices/platform/soc@107c000000/soc@107c000000:firmware/get_throttled": "50005\n"})
    assert Board(tmp_path).condition().undervoltage


@pytest.mark.parametrize(
    ("life_time", "pre_eol", "percent", "told", "bad"),
    [
        ("0x01 0x02", "0x01", 20, "mmcblk0: MMC, up to 20 % of its life is used, spare blocks: normal", False),
        ("0x09 0x01", "0x01", 90, "mmcblk0: MMC, up to 90 % of its life is used, spare blocks: normal", True),
        ("0x01 0x0b", "0x03", 110, "mmcblk0: MMC, its life is used up, spare blocks: urgent", True),
        ("0x00 0x00", "0x02", None, "mmcblk0: MMC, spare blocks: warning", True),
        ("0x00 0x00", "0x00", None, "mmcblk0: MMC tells nothing of its wear", False),
        ("0xff rubbish", "x", None, "mmcblk0: MMC tells nothing of its wear", False),
    ],
)
def test_wear(tmp_path: Path, life_time: str, pre_eol: str, percent: int | None, told: str, bad: bool) -> None:
    device = "sys/block/mmcblk0/device"
    write(
        tmp_path,
        **{f"{device}/type": "MMC\n", f"{device}/life_time": life_time, f"{device}/pre_eol_info": pre_eol},
        **{"sys/block/mmcblk0boot0/size": "8192\n"},
    )
    worn = Board(tmp_path)
    assert [describe_wear(one) for one in worn.memories] == [told]
    assert worn.condition().wear_percent == percent
    assert worn.storage_problems() == ([f"{told}: copy the backups elsewhere and change it"] if bad else [])


def test_the_most_worn_one_counts(tmp_path: Path) -> None:
    for number, value in enumerate(("0x03", "0x07")):
        write(tmp_path, **{f"sys/block/mmcblk{number}/device/life_time": f"{value} 0x00"})
    board = Board(tmp_path)
    assert board.memories[0] == Memory("mmcblk0", "card", 30, None)
    assert board.condition().wear_percent == 70


def test_disk_errors(tmp_path: Path, clock: list[float]) -> None:
    disk = Board(raspberry_pi(tmp_path))
    assert disk.condition().disk_errors == 0
    write(tmp_path, **{"sys/fs/ext4/mmcblk0p2/errors_count": "3\n"})
    clock[0] += 30
    assert disk.condition().disk_errors == 0
    clock[0] += 31
    (problem,) = disk.storage_problems()
    assert problem.startswith("3 errors on the file system mmcblk0p2")
    assert disk.condition().disk_errors == 3
