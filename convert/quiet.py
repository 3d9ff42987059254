"""TensorFlow, loaded without its own log lines: they name no fault of ours and bury the one line that does."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from kiosk.errors import UnavailableError

Keras = Any
"""The module keras (an untyped package)."""

Model = Any
"""A keras.Model."""

log = logging.getLogger(__name__)


def import_tensorflow() -> ModuleType:
    """TensorFlow with a muted log.

    Raises:
        UnavailableError: the ``convert`` extra is not installed.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    os.environ["KERAS_BACKEND"] = "tensorflow"
    try:
        with output_logged(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import tensorflow as tf
    except ImportError as error:
        raise UnavailableError(
            f"TensorFlow cannot be imported ({error}): pip install 'attendance-kiosk[convert]'"
        ) from error
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    logging.getLogger("absl").setLevel(logging.ERROR)
    module: ModuleType = tf
    return module


def import_keras() -> Keras:
    """Keras 3 on TensorFlow.

    Raises:
        UnavailableError: the ``convert`` extra is not installed.
    """
    import_tensorflow()
    import keras

    return keras


@contextlib.contextmanager
def output_logged() -> Iterator[None]:
    """Send what Python prints and what anybody writes to file descriptor 2 (C++ included) to our log at debug level."""
    sys.stderr.flush()
    kept = os.dup(2)
    printed = io.StringIO()
    with tempfile.TemporaryFile() as captured, contextlib.redirect_stdout(printed):
        os.dup2(captured.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            captured.seek(0)
            for line in (printed.getvalue() + captured.read().decode(errors="replace")).splitlines():
                log.debug("%s", line)
