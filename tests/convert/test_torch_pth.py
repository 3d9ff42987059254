"""PyTorch weights without PyTorch: the published files, and files that must not be trusted."""

from __future__ import annotations

import io
import os
import pickle
import struct
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convert.torch_pth import read_pth
from kiosk.errors import InputError

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


class Global:
    """Pickled as the name of something importable, which need not exist here."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name


class Call:
    """Pickled as a call."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.function, self.arguments = function, arguments


class Pickler(pickle._Pickler):
    """Python's own pickler, made to write names and calls that it does not know."""

    def persistent_id(self, obj: object) -> object:
        return obj.arguments if isinstance(obj, Call) and obj.function == "storage" else None

    def save(self, obj: Any, save_persistent_id: bool = True) -> None:
        if isinstance(obj, Global):
            self.write(b"c" + f"{obj.module}\n{obj.name}\n".encode())
        elif isinstance(obj, Call) and obj.function != "storage":
            self.save(obj.function)
            self.save(obj.arguments)
            self.write(b"R")
        else:
            super().save(obj, save_persistent_id)


def dump(obj: object) -> bytes:
    buffer = io.BytesIO()
    Pickler(buffer, protocol=2).dump(obj)
    return buffer.getvalue()


def tensor(
    key: str, shape: tuple[int, ...], *, kind: str = "FloatStorage", count: int | None = None, offset: int = 0
) -> Call:
    strides = tuple(int(np.prod(shape[axis + 1 :])) for axis in range(len(shape)))
    size = int(np.prod(shape)) if count is None else count
    storage = Call("storage", "storage", Global("torch", kind), key, "cpu", size, None)
    return Call(Global("torch._utils", "_rebuild_tensor_v2"), storage, offset, shape, strides, False, OrderedDict())


def pth(tensors: object, storages: dict[str, np.ndarray[Any, Any]]) -> bytes:
    data = b"".join(struct.pack("<q", values.size) + values.tobytes() for values in storages.values())
    head = (MAGIC, PROTOCOL, {"little_endian": True}, tensors, list(storages))
    return b"".join(map(dump, head)) + data


def values(count: int) -> np.ndarray[Any, Any]:
    return np.arange(count, dtype="<f4")


def read(tmp_path: Path, content: bytes) -> dict[str, Any]:
    path = tmp_path / "net.pth"
    path.write_bytes(content)
    return read_pth(path)


def refused(tmp_path: Path, content: bytes) -> str:
    with pytest.raises(InputError) as caught:
        read(tmp_path, content)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'net.pth'}: ")
    assert "\n" not in message
    return message


def test_tensors_by_name_without_prefix_and_counters(tmp_path: Path) -> None:
    tensors = OrderedDict(
        [("module.a", tensor("7", (2, 3))), ("module.n", tensor("8", (1,), kind="LongStorage")), ("b", tensor("9", ()))]
    )
    found = read(tmp_path, pth(tensors, {"9": values(1), "7": values(6), "8": np.array([5], "<i8")}))
    assert list(found) == ["a", "b"]
    assert found["a"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert found["b"].shape == ()


def test_denormals_become_zero(tmp_path: Path) -> None:
    stored = np.array([1e-40, -1e-45, 1.2e-38, -2.0], "<f4")
    found = read(tmp_path, pth(OrderedDict(a=tensor("0", (4,))), {"0": stored}))["a"]
    assert found[:2].tolist() == [0, 0]
    assert found[2:].tolist() == stored[2:].tolist()


@pytest.mark.parametrize("place", ["tensors", "first"])
def test_code_is_refused_and_not_run(tmp_path: Path, place: str) -> None:
    mark = tmp_path / "ran"
    evil = Call(Global(os.system.__module__, "system"), f"touch {mark}")
    content = dump(evil) if place == "first" else pth(OrderedDict(a=evil), {})
    assert "it asks for posix.system, which no weights need" in refused(tmp_path, content)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("module", "name"),
    [("builtins", "eval"), ("builtins", "getattr"), ("torch", "load"), ("torch", "DoubleStorage"), ("numpy", "load")],
)
def test_other_names_are_refused(tmp_path: Path, module: str, name: str) -> None:
    content = pth(OrderedDict(a=Global(module, name)), {})
    assert f"{module}.{name}" in refused(tmp_path, content)


def test_values_that_are_not_tensors(tmp_path: Path) -> None:
    assert "no dictionary of tensors" in refused(tmp_path, pth(OrderedDict(a=1), {}))
    assert "no dictionary of tensors" in refused(tmp_path, pth([1], {}))


def test_values_that_are_no_numbers(tmp_path: Path) -> None:
    stored = np.array([1, np.nan], "<f4")
    assert "no numbers" in refused(tmp_path, pth(OrderedDict(a=tensor("0", (2,))), {"0": stored}))


def test_tensors_beyond_their_storage(tmp_path: Path) -> None:
    reaching = pth(OrderedDict(a=tensor("0", (4,), count=2)), {"0": values(2)})
    assert "does not lie in one piece" in refused(tmp_path, reaching)
    before = pth(OrderedDict(a=tensor("0", (2,), offset=-1)), {"0": values(2)})
    assert "does not lie in one piece" in refused(tmp_path, before)
    announced = pth(OrderedDict(a=tensor("0", (2,))), {"0": values(3)})
    assert "a storage of 3 values, 2 announced" in refused(tmp_path, announced)


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    content = pth(OrderedDict(a=tensor("0", (2, 3))), {"0": values(6)})
    for length in range(len(content)):
        refused(tmp_path, content[:length])


def test_other_formats(tmp_path: Path) -> None:
    assert "later zip format" in refused(tmp_path, b"PK\x03\x04")
    assert "another kind of file" in refused(tmp_path, dump(7))
    path = tmp_path / "large.pth"
    with path.open("wb") as file:
        file.truncate(65 << 20)
    with pytest.raises(InputError, match="larger than 64 MiB"):
        read_pth(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_pth(tmp_path / "none.pth")


def test_published_file(shared: Path) -> None:
    tensors = read_pth(shared / "weights" / "2.7_80x80_MiniFASNetV2.pth")
    assert tensors["conv_6_dw.conv.weight"].shape == (512, 1, 5, 5)
    joined = np.concatenate([values.ravel() for values in tensors.values()])
    assert not ((joined != 0) & (np.abs(joined) < np.finfo(np.float32).tiny)).any()
