"""One import shim for the two packages that carry the TFLite interpreter.

``ai-edge-litert`` is the base dependency; ``tflite-runtime`` 2.14 is its predecessor, kept as an extra.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.metadata
import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Protocol

from kiosk.errors import ModelError

log = logging.getLogger(__name__)

Runtime = Literal["auto", "litert", "tflite-runtime"]

_MODULES = {"litert": "ai_edge_litert.interpreter", "tflite-runtime": "tflite_runtime.interpreter"}
_PACKAGES = {"litert": "ai-edge-litert", "tflite-runtime": "tflite-runtime"}
_CPUINFO = Path("/proc/cpuinfo")


class Interpreter(Protocol):
    """The part of the TFLite interpreter the kiosk uses."""

    def allocate_tensors(self) -> None: ...
    def get_input_details(self) -> list[dict[str, Any]]: ...
    def get_output_details(self) -> list[dict[str, Any]]: ...
    def set_tensor(self, tensor_index: int, value: Any) -> None: ...  # noqa: ANN401 - numpy array of the model's dtype
    def get_tensor(self, tensor_index: int) -> Any: ...  # noqa: ANN401
    def invoke(self) -> None: ...


def make_interpreter(model_path: Path, *, threads: int, runtime: Runtime = "auto") -> Interpreter:
    """Load a model (memory-mapped from its file) and allocate its tensors.

    Raises:
        ModelError: no runtime is installed, the runtime does not work here, or the model does not load.
    """
    interpreter_class = _find_interpreter(runtime)
    _warn_if_slow()
    try:
        with _native_stderr_logged():
            interpreter: Interpreter = interpreter_class(model_path=str(model_path), num_threads=threads)
            interpreter.allocate_tensors()
    # Both runtimes raise RuntimeError or ValueError for a bad model; tflite-runtime under numpy 2 fails with
    # AttributeError or SystemError.
    except (RuntimeError, ValueError, AttributeError, SystemError, ImportError) as error:
        raise ModelError(f"{model_path}: the TFLite runtime cannot load this model: {_first_line(error)}") from error
    return interpreter


def runtime_version(runtime: Runtime) -> str:
    """Name and version of the package that would load a model; empty without any. Loads nothing."""
    for name in list(_MODULES) if runtime == "auto" else [runtime]:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            package = _PACKAGES[name]
            return f"{package} {importlib.metadata.version(package)}"
    return ""


def _find_interpreter(runtime: Runtime) -> Any:  # noqa: ANN401 - a class of one of two untyped packages
    wanted = list(_MODULES) if runtime == "auto" else [runtime]
    for name in wanted:
        try:
            return importlib.import_module(_MODULES[name]).Interpreter
        except ImportError:
            continue
    packages = " or ".join(_PACKAGES[name] for name in wanted)
    raise ModelError(f"no TFLite runtime is installed: pip install {packages}")


@functools.cache
def _warn_if_slow() -> None:
    """Once a process: the runtime chooses its fast code by this file, and without it computes on without a word."""
    try:
        _CPUINFO.open("rb").close()
    except OSError as error:
        if sys.platform == "linux":
            log.warning(
                "%s: %s: recognition will be many times slower without this file; "
                "in a service, take ProcSubset=pid out of its unit and drop-ins (systemctl cat kiosk)",
                _CPUINFO,
                error.strerror,
            )


@contextlib.contextmanager
def _native_stderr_logged() -> Iterator[None]:
    """Send what the C++ side writes to file descriptor 2 to our log at debug level.

    The runtime announces its CPU delegate there unconditionally; nothing but this moves it off the user's terminal.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as captured:
        os.dup2(captured.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            captured.seek(0)
            for line in captured.read().decode(errors="replace").splitlines():
                log.debug("%s", line)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0] or type(error).__name__
