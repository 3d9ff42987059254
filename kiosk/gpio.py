"""Lights, buzzer and relay on a Raspberry Pi's pins, through gpiozero. One thread drives them, and sleeps in between.

gpiozero's own ``GPIOZERO_PIN_FACTORY`` chooses how pins are driven (``mock``: not at all); without it lgpio does, which
talks to the kernel's ``/dev/gpiochip*``. Neither is imported before pins are claimed.
"""

from __future__ import annotations

import atexit
import importlib
import logging
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from types import ModuleType
from typing import Protocol

from kiosk.errors import GpioError
from kiosk.signs import Output, OutputPin, Picture, Plan

log = logging.getLogger(__name__)

_SYSTEM_PACKAGES = "/usr/lib/python3/dist-packages"
"""Where Debian's python3-lgpio lies: PyPI has lgpio for few Pythons only."""
_RETRY_S = 30.0
_STOP_TIMEOUT_S = 2.0


class _Factory(Protocol):
    """What makes gpiozero's pins."""

    def close(self) -> None: ...


class _Device(Protocol):
    """One of gpiozero's output devices."""

    value: float

    def close(self) -> None: ...


class Pins:
    """The outputs of a plan, claimed and at rest.

    Raises:
        GpioError: they cannot be had.
    """

    def __init__(self, plan: Plan) -> None:
        self._pins = plan.pins
        self._devices: dict[Output, _Device] = {}
        self._factory: _Factory | None = None
        self._driven: frozenset[Output] = frozenset()
        try:
            gpiozero, self._factory = _open_factory()
            for output, pin in plan.pins.items():
                self._devices[output] = _claim(gpiozero, self._factory, output, pin)
        except BaseException:
            self.close()
            raise

    def drive(self, outputs: frozenset[Output]) -> None:
        """Drive these and leave the others at rest.

        Raises:
            GpioError: a pin does not obey.
        """
        for output in (outputs ^ self._driven) & self._pins.keys():
            pin = self._pins[output]
            try:
                self._devices[output].value = (output in outputs) != pin.rests_on
            except Exception as error:
                raise GpioError(_explain(error, output, pin)) from error
        self._driven = outputs

    def close(self) -> None:
        """Everything to rest, then release the pins: they are inputs from then on, and whatever hangs on them drops."""
        for output, device in self._devices.items():
            # Each by itself, whatever is known of it: that one does not obey must not leave another on.
            with suppress(Exception):
                device.value = self._pins[output].rests_on
        for device in self._devices.values():
            with suppress(Exception):
                device.close()
        self._devices.clear()
        # What others of this process may use as well (gpiozero's own choice) stays open.
        if self._factory is not None:
            with suppress(Exception):
                self._factory.close()


class Panel:
    """Drives the outputs as ``look`` says: what is to be on at a monotonic time, and until when.

    Whatever the rest of the process does, a pulse of the relay ends in this thread. ``on_return``: called when pins
    that could not be driven can be again, before anything is.
    """

    def __init__(
        self, plan: Plan, look: Callable[[float], Picture], *, on_return: Callable[[], None] = lambda: None
    ) -> None:
        self._plan = plan
        self._look = look
        self._on_return = on_return
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="panel", daemon=True)
        self.fault: str | None = None
        """Why nothing can be shown at the moment; None while all is well."""

    def start(self) -> None:
        """Claim the pins and begin; pins that cannot be had are tried again."""
        self._thread.start()

    def wake(self) -> None:
        """There is something new to show."""
        self._wake.set()

    def stop(self) -> None:
        """Bring everything to rest and release the pins."""
        self._stopping.set()
        self._wake.set()
        self._thread.join(_STOP_TIMEOUT_S)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                with closing(Pins(self._plan)) as pins:
                    if self.fault is not None:
                        self._on_return()
                    self._note_fault(None)
                    self._play(pins)
            except GpioError as error:
                self._note_fault(str(error))
            except Exception:
                log.exception("driving the pins has failed")
                self._note_fault("internal error, see the log")
            self._stopping.wait(_RETRY_S)

    def _play(self, pins: Pins) -> None:
        while not self._stopping.is_set():
            # Before the look: what changes during it wakes us again.
            self._wake.clear()
            picture = self._look(time.monotonic())
            pins.drive(picture.on)
            self._wake.wait(min(max(0.0, picture.until_s - time.monotonic()), threading.TIMEOUT_MAX))

    def _note_fault(self, fault: str | None) -> None:
        if fault == self.fault:
            return
        if fault is None:
            log.info("lights, buzzer and relay can be driven again")
        else:
            log.error("no lights, no buzzer, no relay: %s", fault)
        self.fault = fault


def _open_factory() -> tuple[ModuleType, _Factory | None]:
    """gpiozero, and what makes its pins: None for what ``GPIOZERO_PIN_FACTORY`` names, which gpiozero opens itself."""
    try:
        gpiozero = importlib.import_module("gpiozero")
    except ImportError as error:
        raise GpioError(
            f"gpiozero cannot be loaded ({error}): pip install 'attendance-kiosk[gpio]', or unset feedback.pins"
        ) from error
    try:
        if os.environ.get("GPIOZERO_PIN_FACTORY"):
            gpiozero.Device.ensure_pin_factory()
            return gpiozero, None
        return gpiozero, _open_lgpio(_import_lgpio())
    except GpioError:
        raise
    except Exception as error:
        raise GpioError(_explain(error)) from error


def _import_lgpio() -> ModuleType:
    """lgpio, the system's where this environment has none."""
    # It puts a pipe for notices, which nobody here reads, into the folder it finds itself in, or into this one.
    if "LG_WD" not in os.environ:
        os.environ["LG_WD"] = folder = tempfile.mkdtemp(prefix="kiosk-gpio-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    try:
        return importlib.import_module("lgpio")
    except ImportError as error:
        missing = error
    if _SYSTEM_PACKAGES not in sys.path:
        # Last and not for longer: nothing else is to come from there.
        sys.path.append(_SYSTEM_PACKAGES)
        try:
            return importlib.import_module("lgpio")
        except ImportError as error:
            missing = error
        finally:
            sys.path.remove(_SYSTEM_PACKAGES)
    raise GpioError(f"lgpio cannot be loaded ({missing}): sudo apt install python3-lgpio")


def _open_lgpio(lgpio: ModuleType) -> _Factory:
    from gpiozero.pins.lgpio import LGPIOFactory, LGPIOPin

    class RestingPin(LGPIOPin):  # type: ignore[misc]
        """Becomes an output at the level it is to have: gpiozero's own goes through 0 V, which an active-low relay is
        driven by.
        """

        def output_with_state(self, state: float) -> None:
            lgpio.gpio_claim_output(self.factory._handle, self._number, int(state))  # noqa: SLF001

    factory = LGPIOFactory()
    factory.pin_class = RestingPin
    opened: _Factory = factory
    return opened


def _claim(gpiozero: ModuleType, factory: _Factory | None, output: Output, pin: OutputPin) -> _Device:
    try:
        device: _Device = gpiozero.OutputDevice(
            pin.number, active_high=not pin.active_low, initial_value=pin.rests_on, pin_factory=factory
        )
    except Exception as error:
        raise GpioError(_explain(error, output, pin)) from error
    return device


def _explain(error: Exception, output: Output | None = None, pin: OutputPin | None = None) -> str:
    """Errors of gpiozero and lgpio by their names: both are loaded late, and the latter's are plain exceptions."""
    name, told = type(error).__name__, " ".join(str(error).split())
    where = "" if pin is None else f"GPIO{pin.number} (feedback.pins.{output}): "
    if name == "GPIOPinInUse" or "busy" in told.lower():
        return f"{where}in use by somebody else; `gpioinfo` tells by whom"
    if name == "PinInvalidPin":
        return f"{where}this board has no such pin"
    if name == "PinUnknownPi":
        return "this is no Raspberry Pi, or one that gpiozero does not know; unset feedback.pins"
    if name == "BadPinFactory":
        return f"GPIOZERO_PIN_FACTORY: {told}"
    if "gpiochip" in told or isinstance(error, PermissionError):
        return f"/dev/gpiochip*: {told}; the kiosk's user has to be in the group gpio (`sudo usermod -aG gpio kiosk`)"
    return f"{where}{told or name}"
