"""Tensors of a PyTorch weights file (`.pth`), read without PyTorch and without running what is in it.

A `.pth` is made of pickles, and a pickle may call whatever it names. Here it gets four names and no others: the
dictionary, the tensor, and the two kinds of storage that a network's weights are made of.

Layout of the format that PyTorch wrote before version 1.6: five pickles (a magic number, the protocol's version, the
writer's word sizes, the dictionary of tensors, the order of the storages), then for each storage its count of values
(int64) and the values, little-endian.
"""

from __future__ import annotations

import io
import math
import pickle
import struct
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kiosk.errors import InputError

Array = NDArray[np.float32]

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_MAX_BYTES = 64 << 20
"""Thirty times what the published files have: a larger one is something else."""

# The smallest normal float32. Below it arithmetic runs in microcode, a hundred times as slow.
_LEAST_NORMAL = np.finfo(np.float32).tiny


@dataclass(frozen=True, slots=True)
class _Storage:
    key: str
    dtype: np.dtype[Any]
    count: int


@dataclass(frozen=True, slots=True)
class _View:
    """A tensor before its storage has been read."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_pth(path: Path) -> dict[str, Array]:
    """The float tensors of a state dictionary by name, in its order, denormal numbers zeroed.

    Integer tensors (counters of training steps) are left out, as is the prefix ``module.`` of a network that was
    trained on several devices.

    Raises:
        InputError: missing, truncated, of another format, with values that are no numbers, or with anything in it
            but tensors.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise InputError(f"{path}: larger than {_MAX_BYTES >> 20} MiB; not the weights of one of our networks")
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        return _read(io.BytesIO(content))
    # A damaged pickle raises nearly anything.
    except Exception as error:
        why = str(error) or type(error).__name__
        raise InputError(f"{path}: not PyTorch weights as published, or damaged ({why}); fetch it again") from error


def _read(file: io.BytesIO) -> dict[str, Array]:
    if file.getvalue().startswith(b"PK"):
        raise ValueError("PyTorch's later zip format")
    if _load(file) != _MAGIC or _load(file) != _PROTOCOL:
        raise ValueError("another kind of file")
    if not _load(file).get("little_endian"):
        raise ValueError("big-endian values")
    views, keys = _load(file), _load(file)
    if not isinstance(views, OrderedDict) or not all(isinstance(view, _View) for view in views.values()):
        raise ValueError("no dictionary of tensors")
    storages = _read_storages(file, keys, {view.storage.key: view.storage for view in views.values()})
    return {
        str(name).removeprefix("module."): _resolve(name, view, storages[view.storage.key])
        for name, view in views.items()
        if view.storage.dtype == np.float32
    }


def _read_storages(
    file: io.BytesIO, keys: list[str], expected: Mapping[str, _Storage]
) -> dict[str, NDArray[np.generic]]:
    if sorted(keys) != sorted(expected):
        raise ValueError("storages that belong to no tensor, or are missing")
    found: dict[str, NDArray[np.generic]] = {}
    for key in keys:
        storage = expected[key]
        (count,) = struct.unpack("<q", file.read(8))
        if count != storage.count:
            raise ValueError(f"a storage of {count} values, {storage.count} announced")
        values = file.read(count * storage.dtype.itemsize)
        if len(values) != count * storage.dtype.itemsize:
            raise ValueError("ends early")
        found[key] = np.frombuffer(values, storage.dtype)
    return found


def _resolve(name: str, view: _View, values: NDArray[np.generic]) -> Array:
    size = math.prod(view.shape)
    contiguous = tuple(math.prod(view.shape[axis + 1 :]) for axis in range(len(view.shape)))
    if view.strides != contiguous or view.offset < 0 or view.offset + size > len(values):
        raise ValueError(f"{name}: a tensor that does not lie in one piece")
    tensor = values[view.offset : view.offset + size].reshape(view.shape).astype(np.float32)
    if not np.isfinite(tensor).all():
        raise ValueError(f"{name}: values that are no numbers")
    tensor[np.abs(tensor) < _LEAST_NORMAL] = 0
    return tensor


def _rebuild_tensor(
    storage: _Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: object
) -> _View:
    if not isinstance(storage, _Storage):
        raise pickle.UnpicklingError("a tensor without a storage")
    return _View(storage, int(offset), tuple(map(int, shape)), tuple(map(int, strides)))


_NAMES: Mapping[tuple[str, str], Callable[..., object] | np.dtype[Any]] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch", "FloatStorage"): np.dtype("<f4"),
    ("torch", "LongStorage"): np.dtype("<i8"),
}


class _Unpickler(pickle.Unpickler):
    """Knows the names of ``_NAMES`` only."""

    def find_class(self, module: str, name: str, /) -> object:
        if (module, name) not in _NAMES:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no weights need")
        return _NAMES[module, name]

    def persistent_load(self, pid: Any, /) -> _Storage:  # noqa: ANN401 - whatever the pickle holds
        kind, dtype, key, _device, count, view = pid
        if kind != "storage" or not isinstance(dtype, np.dtype) or view is not None:
            raise pickle.UnpicklingError("a reference to something else than a storage")
        return _Storage(str(key), dtype, int(count))


def _load(file: io.BytesIO) -> Any:  # noqa: ANN401 - whatever the pickle holds
    return _Unpickler(file).load()
