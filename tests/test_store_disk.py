"""Disks that are full, read-only, gone or slow: nobody is told of a check-in that is not there, and it heals by itself.

The disks are real, if small: tmpfs and ext4 on a loop device. That needs root, and a machine that lets root mount.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import Kiosk
from runner import copy_store, enroll_people
from test_store import ANA, NOW_MS, check_in, moment, reject, template
from test_store_damage import wipe_first_page

from kiosk.biometrics import Box
from kiosk.clip import Person, Scene, Walk, write_clip
from kiosk.errors import KioskError, StoreError
from kiosk.opencv import cv2
from kiosk.store import BackupKeeper, Limits, Store
from kiosk.store._damage import find_damage

pytestmark = pytest.mark.stories

DAY_MS = 86_400_000
NO_LIMIT = Limits(min_free_mib=0)
PATH = {**os.environ, "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"}


def run(*command: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*map(str, command)], check=check, capture_output=True, text=True, env=PATH)


def mount(*arguments: str | Path) -> None:
    """Skips where it is not allowed: containers have a root who may not."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    try:
        run("mount", *arguments)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"this machine lets nobody mount: {getattr(error, 'stderr', error)}")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """8 MiB in memory."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount("-t", "tmpfs", "-o", "size=8m", "none", folder)
    yield folder
    run("umount", "-l", folder)


def occupy(folder: Path, leave_bytes: int = 0) -> Path:
    """Fill a disk up to so much."""
    path = folder / "ballast"
    with path.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while (free := shutil.disk_usage(folder).free) > leave_bytes:
            file.write(bytes(min(1 << 16, free - leave_bytes)))
    return path


# --- full


def test_check_ins_are_refused_before_anything_recorded_is_at_risk(small_disk: Path) -> None:
    with Store.open(small_disk / "kiosk.db", limits=Limits(min_free_mib=2)) as store:
        store.enroll(ANA, [template()])
        first = check_in(store)
        ballast = occupy(small_disk, leave_bytes=(2 << 20) - 4096)
        with pytest.raises(StoreError, match=r"only 2\.0 MiB are free .*the last 2 .*\(store\.min_free_mib\)"):
            check_in(store)
        with pytest.raises(StoreError, match="min_free_mib"):
            reject(store)
        assert "store.min_free_mib" in str(store.condition().fault)
        assert store.condition().free_mib == 1
        # What needs little goes on: acknowledgements, retention, erasure.
        store.mark_sent([first.seq])
        assert store.prune(1, now_ms=NOW_MS + 3 * DAY_MS) == 1
        assert store.remove_subject(ANA).complete
        ballast.unlink()
        store.enroll(ANA, [template()])
        assert check_in(store).seq == 2
        assert store.condition().fault is None


def test_a_disk_filled_by_others_costs_no_told_check_in_and_needs_no_restart(
    small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = small_disk / "kiosk.db"
    caplog.set_level("INFO")
    with Store.open(path, verified=True, limits=NO_LIMIT) as store:
        store.enroll(ANA, [template()])
        told = [check_in(store).seq for _ in range(20)]
        ballast = occupy(small_disk)
        refused = 0
        for number in range(100):
            try:
                told.append(check_in(store, at=moment(NOW_MS + number)).seq)
            except StoreError as error:
                assert "no space left" in str(error)  # noqa: PT017 - some succeed in space the log has already
                refused += 1
        assert refused
        assert "no space left" in str(store.condition().fault)
        assert [row.seq for row in store.attendance()] == told
        ballast.unlink()
        told.append(check_in(store).seq)
        assert told == list(range(1, len(told) + 1))
        assert [row.seq for row in store.attendance()] == told
        assert store.condition().fault is None
    assert find_damage(path) is None
    assert caplog.text.count("no space left") == 1
    assert caplog.text.count("writing works again") == 1


def test_acknowledgements_fit_where_check_ins_are_refused_already(small_disk: Path) -> None:
    with Store.open(small_disk / "kiosk.db", limits=Limits(min_free_mib=1)) as store:
        store.enroll(ANA, [template()])
        committed = 0
        while store.refusal() is None:
            check_in(store)
            committed += 1
        with pytest.raises(StoreError, match="min_free_mib"):
            check_in(store)
        for seq in range(1, committed + 1):
            store.mark_sent([seq])
        assert store.outbox_counts().sent == committed > 100
        assert store.prune(1, now_ms=NOW_MS + 3 * DAY_MS) == committed


def test_a_backup_that_has_no_room_is_told_and_leaves_nothing(small_disk: Path) -> None:
    with Store.open(small_disk / "kiosk.db", limits=NO_LIMIT) as store:
        store.enroll(ANA, [template()])
        keeper = BackupKeeper(store, every_h=24, keep=3, look_s=0.05)
        keeper.start()
        deadline_s = time.monotonic() + 5
        while store.backup_fault is None and time.monotonic() < deadline_s:
            time.sleep(0.02)
        keeper.stop()
        assert "no room for a backup" in str(store.condition().fault)
        assert [file.name for file in store.backups.folder.iterdir()] == [".lock"]
        assert check_in(store)


def test_restoring_without_room_leaves_everything_as_it_is(small_disk: Path) -> None:
    path = small_disk / "kiosk.db"
    with Store.open(path, limits=NO_LIMIT) as store:
        store.enroll(ANA, [template()])
        check_in(store)
        with store.backups.alone():
            store.backups._make_room = lambda: None  # type: ignore[method-assign]
            store.backups.take()
    content = wipe_first_page(path)
    ballast = occupy(small_disk)
    with pytest.raises(StoreError, match="no space left"):
        Store.open(path, verified=True)
    assert path.read_bytes() == content
    assert {file.name for file in small_disk.iterdir()} <= {
        "kiosk.db",
        "kiosk.db.key",
        "kiosk.db.lock",
        "kiosk.db.daemon",
        "backups",
        "ballast",
    }
    ballast.unlink()
    with Store.open(path, verified=True, limits=NO_LIMIT) as store:
        assert store.restored is not None
        assert check_in(store).seq == 2


def test_so_many_events_may_wait_and_none_is_given_up(tmp_path: Path) -> None:
    with Store.open(tmp_path / "kiosk.db", limits=Limits(min_free_mib=0, max_unsent=10)) as store:
        store.enroll(ANA, [])
        for _ in range(7):
            check_in(store)
        assert store.condition().fault is None
        assert store.condition().unsent_share == 0.7
        check_in(store)
        assert "8 events wait to be sent; at 10 check-ins are refused" in str(store.condition().fault)
        check_in(store)
        check_in(store)
        with pytest.raises(StoreError, match=r"10 events wait to be sent \(store\.max_unsent\)"):
            check_in(store)
        assert [row.seq for row in store.attendance()] == list(range(1, 11))
        row = store.next_pending()
        assert row is not None
        assert row.seq == 1
        store.mark_sent([1])
        assert check_in(store).seq == 11


# --- read-only, gone, slow


class Disk:
    """ext4 on a loop device that makes itself read-only after an error, as those of Raspberry Pi OS do."""

    def __init__(self, folder: Path) -> None:
        self.image = folder / "image"
        self.folder = folder / "disk"
        self.folder.mkdir()
        with self.image.open("wb") as image:
            image.truncate(24 << 20)
        run("mkfs.ext4", "-q", "-O", "^metadata_csum", self.image)
        self.mount()

    def mount(self) -> None:
        mount("-o", "loop,errors=remount-ro", self.image, self.folder)

    def fail(self) -> None:
        """Have the kernel meet an error of the file system: it goes on read-only."""
        device = Path(run("findmnt", "-n", "-o", "SOURCE", self.folder).stdout.strip()).name
        Path(f"/sys/fs/ext4/{device}/trigger_fs_error").write_text("test\n", encoding="ascii")

    def unplug(self) -> None:
        run("umount", "-l", self.folder)

    def repair(self) -> None:
        # Another device with the same content, as a disk that was plugged out and in is one.
        self.image = Path(shutil.copy(self.image, self.image.with_name("repaired")))
        run("e2fsck", "-fy", self.image, check=False)
        self.mount()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    if os.geteuid() != 0:
        pytest.skip("only root can mount a disk")
    if shutil.which("mkfs.ext4", path=PATH["PATH"]) is None:
        pytest.skip("mkfs.ext4 is not installed")
    disk = Disk(tmp_path)
    yield disk
    run("umount", "-l", disk.folder, check=False)


def test_a_disk_that_turns_read_only_is_told_once_and_used_again_when_it_is_back(
    disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    with Store.open(disk.folder / "kiosk.db", verified=True, limits=NO_LIMIT) as store:
        store.enroll(ANA, [template()])
        told = [check_in(store).seq for _ in range(10)]
        disk.fail()
        for _ in range(5):
            with pytest.raises(KioskError):
                check_in(store)
        assert store.condition().fault is not None
        assert [row.seq for row in store.attendance()] == told
        assert caplog.text.count("ERROR") == 1
        disk.unplug()
        with pytest.raises(StoreError, match="the store is gone; bring its disk back"):
            check_in(store)
        assert not list(disk.folder.iterdir())
        disk.repair()
        told.append(check_in(store).seq)
        assert told == list(range(1, 12))
        assert [row.seq for row in store.attendance()] == told
        assert store.condition().fault is None
        assert store.changed()  # whatever happened to the file meanwhile
    assert "writing works again" in caplog.text
    assert find_damage(disk.folder / "kiosk.db") is None


def test_slow_writing_is_told_once_and_until_it_is_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr("kiosk.store._connection._SLOW_S", 0.1)
    path = tmp_path / "kiosk.db"
    with Store.open(path, verified=True) as store, Store.open(path) as other:
        store.enroll(ANA, [])
        for _ in range(2):
            held, release = threading.Event(), threading.Event()

            def hold(held: threading.Event = held, release: threading.Event = release) -> None:
                with other._alone():
                    held.set()
                    release.wait(0.3)

            thread = threading.Thread(target=hold)
            thread.start()
            held.wait()
            check_in(store)
            thread.join()
        assert "writing takes long" in str(store.condition().fault)
        assert caplog.text.count("writing takes long") == 1
        check_in(store)
        assert store.condition().fault is None


# --- the daemon


@pytest.fixture
def home(tmp_path: Path, kiosk: Kiosk, samples: Path, small_disk: Path) -> Kiosk:
    enroll_people(kiosk, samples)
    target = Kiosk(small_disk, "auto")
    copy_store(kiosk, target)
    kiosk.store = target.store
    clip = tmp_path / "visits.avi"
    obama = Person(cv2.imread(str(samples / "obama2.jpg")), Box(115, 181, 181, 181))  # type: ignore[arg-type]
    write_clip(clip, [Scene(1.0, (Walk(obama, x=(0.45, 0.55), face_px=(120, 130)),)), Scene(1.3)])
    kiosk.configure(
        store={"path": str(target.store), "min_free_mib": 2, "backups": {"keep": 0}},
        camera={"source": str(clip), "loop": True, "pace": "realtime"},
        match={"refractory_s": 5},
    )
    return kiosk


def test_a_kiosk_on_a_full_disk_tells_nobody_stays_up_and_goes_on_when_there_is_room(
    home: Kiosk, small_disk: Path
) -> None:
    ballast = occupy(small_disk, leave_bytes=1 << 20)
    process = home.start("run")
    try:
        time.sleep(9)
        assert process.poll() is None
        with Store.open(home.store, writable=False) as store:
            assert store.attendance() == []
        ballast.unlink()
        deadline_s = time.monotonic() + 20
        with Store.open(home.store, writable=False) as store:
            while not store.attendance() and time.monotonic() < deadline_s:
                time.sleep(0.2)
            committed = len(store.attendance())
    finally:
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=30)
    assert process.returncode == 0, log
    assert committed >= 1
    refused, _, after = log.partition("check_in of")
    assert after, log
    assert refused.count("check-in of obama not recorded: ") >= 1
    # A line for each visit, none for each frame.
    assert refused.count("not recorded") <= 6
    assert "Traceback" not in log
