"""Every kind of bad input, through the command line as a user meets it: one line, the right code, nothing changed."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from broker import free_port
from command_line import Kiosk
from fuzz.mutation import bomb_png
from runner import assert_one_line_error, copy_store, dump, run_in_process, side_by_side

from kiosk.bundle import BUILT_IN, BUILT_IN_BUNDLE
from kiosk.opencv import cv2


@pytest.fixture
def home(kiosk: Kiosk, _home: Kiosk) -> Kiosk:
    """Obama and Biden enrolled, for this test alone."""
    copy_store(_home, kiosk)
    return kiosk


def _refused(kiosk: Kiosk, code: int, *arguments: str | Path) -> str:
    """Run, and see that it fails as it should and leaves the store as it was; returns the error line."""
    before = dump(kiosk.store)
    result = kiosk(*arguments)
    assert result.returncode == code, result.stderr
    assert result.stdout == ""
    assert dump(kiosk.store) == before
    return assert_one_line_error(result.stderr)


# Photos that cannot be used


def _encoded(image: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], kind: str = ".png") -> bytes:
    done, data = cv2.imencode(kind, image)
    assert done
    return data.tobytes()


BAD_PHOTOS: dict[str, Callable[[Path], bytes]] = {
    "zero-byte.jpg": lambda _: b"",
    "truncated.jpg": lambda samples: (samples / "obama.jpg").read_bytes()[:20_000],
    "header-only.jpg": lambda samples: (samples / "obama.jpg").read_bytes()[:300],
    "text.jpg": lambda _: b"This is no photo.\n" * 50,
    "one-pixel.png": lambda _: _encoded(np.zeros((1, 1, 3), np.uint8)),
    "line.png": lambda _: _encoded(np.zeros((1, 2000, 3), np.uint8)),
    "bomb-20000x20000.png": lambda _: bomb_png(20_000, 20_000),
    "nobody.png": lambda _: _encoded(np.full((480, 640, 3), 128, np.uint8)),
    "two-people.png": lambda samples: _encoded(side_by_side(samples / "obama2.jpg", samples / "collins.jpg")),
}


@pytest.mark.parametrize("name", BAD_PHOTOS)
def test_enroll_refuses_the_photo(home: Kiosk, samples: Path, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(BAD_PHOTOS[name](samples))
    line = _refused(home, 65, "enroll", "E1", path)
    assert name in line


def test_a_file_that_is_none(home: Kiosk, tmp_path: Path) -> None:
    assert "nowhere.jpg" in _refused(home, 65, "enroll", "E1", tmp_path / "nowhere.jpg")
    (tmp_path / "folder.jpg").mkdir()
    assert "folder.jpg" in _refused(home, 65, "enroll", "E1", tmp_path / "folder.jpg")


@pytest.mark.parametrize("name", ["zero-byte.jpg", "truncated.jpg", "text.jpg", "one-pixel.png", "nobody.png"])
def test_verify_refuses_the_photo(home: Kiosk, samples: Path, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(BAD_PHOTOS[name](samples))
    assert name in _refused(home, 65, "verify", samples / "obama.jpg", path, "--json")


# Photos that are unusual, and must work


def _turned(photo: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> bytes:
    """Stored lying on its side, with the EXIF orientation that sets it upright (6: turn clockwise)."""
    data = _encoded(cv2.rotate(photo, cv2.ROTATE_90_COUNTERCLOCKWISE), ".jpg")
    tiff = b"MM\0*\0\0\0\x08" + struct.pack(">HHHIHHI", 1, 0x0112, 3, 1, 6, 0, 0)
    body = b"Exif\0\0" + tiff
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + data[2:]


UNUSUAL_PHOTOS = {
    "16-bit.png": lambda photo: _encoded(photo.astype(np.uint16) * 257),
    "grey.png": lambda photo: _encoded(cv2.cvtColor(photo, cv2.COLOR_BGR2GRAY)),
    "alpha.png": lambda photo: _encoded(cv2.cvtColor(photo, cv2.COLOR_BGR2BGRA)),
    "exif-turned.jpg": _turned,
}


@pytest.mark.parametrize("name", UNUSUAL_PHOTOS)
def test_an_unusual_photo_is_read_right(home: Kiosk, samples: Path, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(UNUSUAL_PHOTOS[name](cv2.imread(str(samples / "obama2.jpg"))))
    result = home("identify", path, "--json")
    assert result.returncode == 0, result.stderr
    (face,) = json.loads(result.stdout)["images"][0]["faces"]
    assert face["subject_id"] == "obama"


# Subject ids

SQL = "'; DROP TABLE subjects; --"
BAD_IDS = ["two words", "a/b", "../../x", "a+b", "a#b", SQL, '"', "x" * 300, "김철수", "", ".", "a\nb", "é", "$SYS"]


@pytest.mark.parametrize("subject_id", BAD_IDS)
def test_enroll_refuses_the_id(home: Kiosk, samples: Path, subject_id: str) -> None:
    line = _refused(home, 65, "enroll", subject_id, samples / "collins.jpg")
    assert "1 to 64" in line
    assert len(line) < 300


def test_an_id_with_a_nul(home: Kiosk, samples: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No process can be given a NUL; the command itself refuses it all the same."""
    code = run_in_process("enroll", "a\0b", str(samples / "collins.jpg"), "--config", str(home.config))
    assert code == 65
    assert_one_line_error(capsys.readouterr().err)


@pytest.mark.parametrize("arguments", [["show"], ["remove", "--yes"], ["rename"]])
def test_the_other_commands_refuse_a_bad_id(home: Kiosk, arguments: list[str]) -> None:
    name = ["Name"] if arguments[0] == "rename" else []
    _refused(home, 65, "subjects", *arguments, "a b", *name)


def test_any_text_may_be_a_name(home: Kiosk, samples: Path) -> None:
    name = '김철수 / "Bobby" \'; DROP TABLE subjects; -- +#'
    assert home("enroll", "E1", "--name", name, samples / "collins.jpg").returncode == 0
    assert json.loads(home("subjects", "show", "E1", "--json").stdout)["name"] == name


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "x" * 300])
def test_what_is_no_name(home: Kiosk, samples: Path, name: str) -> None:
    _refused(home, 65, "enroll", "E1", "--name", name, samples / "collins.jpg")


# Configuration

YAML_BOMB = 'a: &a ["x","x","x","x","x","x","x","x","x"]\n' + "".join(
    f"{new}: &{new} [{','.join(['*' + old] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
BAD_CONFIGS = {
    "unknown key": "mqtt: {prot: 1884}",
    "unknown section": "mqqt: {port: 1884}",
    "wrong type": "mqtt: {port: many}",
    "boolean for a number": "mqtt: {port: true}",
    "out of range": "mqtt: {port: 70000}",
    "bomb": YAML_BOMB,
    "deep": "[" * 5000,
    "duplicate key": "mqtt: {port: 1}\nmqtt: {port: 2}",
    "not a mapping": "- 1\n- 2",
    "python object": "device: !!python/object/apply:os.system [echo]",
    "nul": "device: {site: a\0b}",
    "syntax": "mqtt: {port: 1",
    "huge": "# " + "x" * 200_000,
}


@pytest.mark.parametrize("kind", BAD_CONFIGS)
def test_a_bad_configuration(home: Kiosk, samples: Path, kind: str) -> None:
    path = home.folder / "bad.yaml"
    path.write_text(BAD_CONFIGS[kind])
    line = _refused(home, 78, "enroll", "E1", samples / "collins.jpg", "--config", path)
    assert "bad.yaml" in line
    assert len(line) < 500


def test_every_problem_of_a_configuration_is_told(home: Kiosk) -> None:
    path = home.folder / "bad.yaml"
    path.write_text("mqtt:\n  prot: 1884\n  host: 7\ncamera: {fps: fast}\n")
    result = home("run", "--config", path)
    assert result.returncode == 78
    lines = result.stderr.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("kiosk: ") and "bad.yaml:" in line for line in lines)
    assert any('did you mean "port"' in line for line in lines)


def test_a_configuration_that_is_not_there(home: Kiosk) -> None:
    assert "nowhere.yaml" in _refused(home, 78, "run", "--config", home.folder / "nowhere.yaml")


# Model bundles (more of them in test_cli_model.py)


@pytest.mark.parametrize("damage", ["hash", "shape"])
def test_a_bundle_that_is_not_what_it_says(home: Kiosk, samples: Path, damage: str) -> None:
    bundle = home.folder / "bundle"
    shutil.copytree(BUILT_IN / BUILT_IN_BUNDLE, bundle)
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest |= {"tflite_sha256": "0" * 64} if damage == "hash" else {"embedding_dim": 512}
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    home.configure(model={"bundle": str(bundle)})
    assert str(bundle) in _refused(home, 69, "enroll", "E1", samples / "collins.jpg")


# The store


def test_a_corrupt_store(home: Kiosk, samples: Path) -> None:
    home.store.write_bytes(b"\x53\x51 this is no database " * 500)
    before = home.store.read_bytes()
    for command in (["enroll", "E1", samples / "collins.jpg"], ["subjects", "list"], ["run"]):
        result = home(*command)
        assert result.returncode == 73
        assert str(home.store) in assert_one_line_error(result.stderr)
    assert home.store.read_bytes() == before


def test_a_store_with_a_broken_page(home: Kiosk) -> None:
    data = bytearray(home.store.read_bytes())
    data[4096:8192] = b"\xff" * 4096
    home.store.write_bytes(data)
    result = home("check", "--json")
    assert "store" in assert_one_line_error(result.stderr)
    store = next(check for check in json.loads(result.stdout)["checks"] if check["name"] == "store")
    assert store["status"] == "fail"
    assert "damaged" in store["message"]


def test_a_store_of_a_newer_version(home: Kiosk, samples: Path) -> None:
    db = sqlite3.connect(home.store)
    db.execute("PRAGMA user_version = 99")
    db.close()
    line = _refused(home, 73, "enroll", "E1", samples / "collins.jpg")
    assert "99" in line
    _refused(home, 73, "subjects", "list")


def test_a_store_that_is_a_folder(kiosk: Kiosk, samples: Path) -> None:
    kiosk.store.mkdir()
    result = kiosk("enroll", "E1", samples / "collins.jpg")
    assert result.returncode == 73
    assert_one_line_error(result.stderr)


def test_a_store_that_is_read_only(home: Kiosk, samples: Path) -> None:
    before = dump(home.store)
    home.store.chmod(0o400)
    result = _as_ordinary_user(home, "enroll", "E1", str(samples / "collins.jpg"))
    assert result.returncode == 77, result.stderr
    line = assert_one_line_error(result.stderr)
    assert str(home.store) in line
    assert "store.path" in line
    home.store.chmod(0o600)
    assert dump(home.store) == before


@pytest.mark.parametrize("what", ["photo", "config", "store", "folder"])
def test_what_this_user_may_not_read_is_77_and_named(home: Kiosk, samples: Path, what: str) -> None:
    photo = home.folder / "photo.jpg"
    shutil.copy(samples / "collins.jpg", photo)
    closed = {"photo": photo, "config": home.config, "store": home.store, "folder": home.folder / "closed"}[what]
    if what == "folder":
        closed.mkdir()
        home.configure(store={"path": str(closed / "kiosk.db")})
    mode = closed.stat().st_mode
    closed.chmod(0)
    try:
        result = _as_ordinary_user(home, "enroll", "E1", str(photo))
        assert result.returncode == 77, result.stderr
        line = assert_one_line_error(result.stderr)
        assert line.startswith(f"kiosk: {closed}: ")
        assert "owner" in line or what == "photo"
    finally:
        closed.chmod(mode)


def test_check_keeps_its_table_where_files_are_closed(home: Kiosk) -> None:
    closed, password = home.folder / "closed", home.folder / "password"
    closed.mkdir()
    password.write_text("x")
    home.configure(
        store={"path": str(closed / "kiosk.db")},
        mqtt={"enabled": True, "username": "door", "password_file": str(password)},
    )
    closed.chmod(0)
    password.chmod(0)
    result = _as_ordinary_user(home, "check", "--json")
    closed.chmod(0o700)
    found = {one["name"]: one for one in json.loads(result.stdout)["checks"]}
    assert result.returncode == 77
    for name, path in (("model", closed), ("store", closed / "kiosk.db"), ("broker", password)):
        assert found[name]["status"] == "fail"
        assert f"{path}: " in found[name]["message"]
    assert {"detector", "clock", "pad", "code"} <= found.keys()


def _as_ordinary_user(kiosk: Kiosk, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Without root's privilege to write whatever it likes."""
    prefix: list[str] = []
    if os.geteuid() == 0:
        setpriv = shutil.which("setpriv")
        if setpriv is None:
            pytest.skip("running as root without setpriv (util-linux)")
        prefix = [setpriv, "--bounding-set", "-dac_override,-dac_read_search"]
    return subprocess.run(
        [*prefix, sys.executable, "-m", "kiosk", *arguments],
        env=kiosk._environment_with(None),
        capture_output=True,
        encoding="utf-8",
        check=False,
    )


def test_a_store_where_none_can_be(kiosk: Kiosk, samples: Path) -> None:
    kiosk.configure(store={"path": "/proc/nowhere/kiosk.db"})
    result = kiosk("enroll", "E1", samples / "collins.jpg")
    assert result.returncode in {73, 77}
    assert "store.path" in assert_one_line_error(result.stderr)


# Camera and broker


@pytest.mark.parametrize("source", [63, "/nowhere/clip.avi", "picamera2"])
def test_no_camera(home: Kiosk, source: int | str) -> None:
    home.configure(camera={"source": source})
    _refused(home, 69, "run")


def test_nobody_listens_at_the_cameras_address(home: Kiosk) -> None:
    home.configure(camera={"source": f"rtsp://127.0.0.1:{free_port()}/cam", "open_timeout_s": 2})
    _refused(home, 69, "run")


def test_a_threshold_from_error_rates_that_nobody_measured(home: Kiosk, samples: Path) -> None:
    line = assert_one_line_error(
        home(
            "identify",
            samples / "collins.jpg",
            env={"KIOSK_FACE__DETECTOR": "haar"},
        ).stderr
    )
    assert "match.threshold" in line
    assert home("verify", *[samples / "biden.jpg"] * 2, env={"KIOSK_FACE__DETECTOR": "haar"}).returncode == 78
