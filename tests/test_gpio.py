"""Pins are driven as the door is to show it, on gpiozero's mock pins; what cannot be driven is told in one line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import gpiozero
import pytest
from broker import wait_for
from command_line import Kiosk
from gpiozero.pins.mock import MockFactory, MockPin
from runner import run_in_process
from test_feedback import LIGHTS, SOUNDS, event, problem
from test_health import build_daemon

from kiosk.biometrics import Box
from kiosk.clip import Person, Scene, Walk, write_clip
from kiosk.errors import GpioError
from kiosk.feedback import Feedback
from kiosk.gpio import Panel, Pins
from kiosk.opencv import cv2
from kiosk.signs import Output, OutputPin, Pattern, Plan, RelayTerms, Sign
from kiosk.store import Store

NO_GROUP = "the kiosk's user has to be in the group gpio (`sudo usermod -aG gpio kiosk`)"
NUMBERS = {"accepted": 17, "refused": 27, "wait": 22, "fault": 23, "buzzer": 24, "relay": 25}


class Recorder(MockPin):  # type: ignore[misc]
    """A pin that remembers every level it was given as an output, and when."""

    history: dict[str, list[tuple[float, bool]]]

    def _change_state(self, value: bool) -> bool:
        changed: bool = super()._change_state(value)
        if self.function == "output" and changed:
            self.factory.history.setdefault(self.info.name, []).append((time.monotonic(), bool(value)))
        return changed


class Board(MockFactory):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__(pin_class=Recorder)
        self.history: dict[str, list[tuple[float, bool]]] = {}

    def high(self, output: str) -> bool:
        state: bool = self.pin(f"GPIO{NUMBERS[output]}").state
        return state

    def changes(self, output: str) -> list[tuple[float, bool]]:
        return self.history.get(f"GPIO{NUMBERS[output]}", [])


@pytest.fixture
def board(monkeypatch: pytest.MonkeyPatch) -> Iterator[Board]:
    """What gpiozero drives in this process."""
    board = Board()
    monkeypatch.setenv("GPIOZERO_PIN_FACTORY", "mock")
    monkeypatch.setattr(gpiozero.Device, "pin_factory", board)
    yield board
    board.close()


def plan_of(*outputs: str, terms: RelayTerms | None = None, **changed: OutputPin) -> Plan:
    pins = {Output(name): changed.get(name, OutputPin(NUMBERS[name])) for name in outputs or NUMBERS}
    return Plan(pins, LIGHTS, SOUNDS, terms or RelayTerms())


class Wired:
    """A panel at work."""

    def __init__(self, plan: Plan) -> None:
        self.feedback = Feedback(plan, guarded=True)
        self.panel = Panel(plan, self.feedback.at, on_return=self.feedback.forget_pulse)
        self.feedback.on_change = self.panel.wake

    def __enter__(self) -> Self:
        self.panel.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.panel.stop()
        assert not self.panel._thread.is_alive()


def test_outputs_are_at_rest_from_the_start_and_when_released(board: Board) -> None:
    plan = plan_of("accepted", "relay", relay=OutputPin(NUMBERS["relay"], active_low=True))
    pins = Pins(plan)
    assert (board.high("accepted"), board.high("relay")) == (False, True)
    pins.drive(frozenset(Output))
    assert (board.high("accepted"), board.high("relay")) == (True, False)
    pins.close()
    assert board.changes("relay")[-1][1]
    assert board.pin("GPIO25").function == board.pin("GPIO17").function == "input"


def test_a_light_that_does_not_obey_leaves_no_relay_on(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    pins = Pins(plan_of())
    pins.drive(frozenset({Output.RELAY, Output.REFUSED}))
    assert board.high("relay")
    obey = Recorder._set_state

    def only_the_relay_does(pin: Recorder, value: float) -> None:
        if pin.info.name != "GPIO25":
            _fail()
        obey(pin, value)

    monkeypatch.setattr(Recorder, "_set_state", only_the_relay_does)
    with pytest.raises(GpioError, match="Input/output error"):
        pins.drive(frozenset({Output.RELAY, Output.ACCEPTED}))
    pins.close()
    # Driven to rest, and not only let go of.
    assert [level for _, level in board.changes("relay")] == [True, False]


def test_a_relay_that_rests_driven_is_let_go_for_the_pulse(board: Board) -> None:
    pins = Pins(plan_of("relay", relay=OutputPin(NUMBERS["relay"], rests_on=True)))
    assert board.high("relay")
    pins.drive(frozenset({Output.RELAY}))
    assert not board.high("relay")
    pins.drive(frozenset())
    assert board.high("relay")
    pins.close()


def test_a_pulse_comes_once_for_each_event_in_its_time_and_ends_without_the_main_thread(board: Board) -> None:
    called_s = []
    with Wired(plan_of(terms=RelayTerms(pulse_s=0.3))) as box:
        wait_for(lambda: board.pin("GPIO25").function == "output", 5, what="the pins")
        for number in (1, 2):
            called_s.append(time.monotonic())
            box.feedback.accepted(event(), age_s=0.1)
            wait_for(lambda number=number: len(board.changes("relay")) == 2 * number, 5, what="the pulse")  # type: ignore[misc]
        time.sleep(0.4)
    changes = board.changes("relay")
    assert [level for _, level in changes] == [True, False] * 2
    for (on_s, _), (off_s, _), begun_s in zip(changes[::2], changes[1::2], called_s, strict=True):
        # The machine may be busy: the pulse then begins late, and ends all the same when it has to.
        assert on_s >= begun_s
        assert off_s >= begun_s + 0.3


def test_a_stop_in_the_middle_of_a_pulse_ends_it(board: Board) -> None:
    with Wired(plan_of(terms=RelayTerms(pulse_s=60))) as box:
        box.feedback.accepted(event(), age_s=0.1)
        wait_for(lambda: board.high("relay"), 5, what="the pulse")
    assert [level for _, level in board.changes("relay")] == [True, False]
    assert not any(board.high(output) for output in NUMBERS)


def test_nothing_wakes_up_while_nothing_changes(board: Board) -> None:
    looks = 0

    with Wired(plan_of()) as box:
        look = box.panel._look

        def counted(now_s: float) -> object:
            nonlocal looks
            looks += 1
            return look(now_s)

        box.panel._look = counted  # type: ignore[assignment]
        wait_for(lambda: board.pin("GPIO25").function == "output", 5, what="the pins")
        box.feedback.tell_problems([problem("camera")])
        wait_for(lambda: board.high("fault"), 5, what="the fault")
        box.feedback.tell_problems([problem("broker")])
        wait_for(lambda: not board.high("fault"), 5, what="its end")
        before = looks
        box.feedback.tell_problems([problem("clock")])
        box.feedback.show([])
        time.sleep(0.3)
        assert looks <= before + 1


def test_faults_of_eight_sources_leave_the_light_right(board: Board) -> None:
    """However many faults come and go: the light is on while there is one, and only then."""
    plan = Plan(plan_of().pins, LIGHTS | {Sign.FAULT: Pattern((1000,))}, SOUNDS)
    parts = ["camera"] * 4 + ["reader", "store", "outbox", "clock"]
    faulty: set[int] = set()
    with Wired(plan) as box:
        for number in range(2000):
            faulty ^= {(number * 7 + number // 5) % 8}
            box.feedback.tell_problems([problem(parts[source]) for source in faulty])
            if number % 500 == 0:
                expected = bool(faulty & set(range(6)))
                wait_for(lambda expected=expected: board.high("fault") == expected, 5, what="the light")  # type: ignore[misc]
        box.feedback.tell_problems([problem("camera")])
        wait_for(lambda: board.high("fault"), 5, what="the fault")
        box.feedback.tell_problems([problem("clock")])
        wait_for(lambda: not board.high("fault"), 5, what="the end of the fault")


def test_a_pin_that_is_taken_is_told_once_tried_again_and_disturbs_nothing(
    board: Board, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("kiosk.gpio._RETRY_S", 0.05)
    other = gpiozero.OutputDevice(NUMBERS["relay"])
    with Wired(Plan(plan_of().pins, LIGHTS | {Sign.ACCEPTED: Pattern((15_000,))}, SOUNDS)) as box:
        wait_for(lambda: box.panel.fault is not None, 5, what="the fault")
        assert box.panel.fault == "GPIO25 (feedback.pins.relay): in use by somebody else; `gpioinfo` tells by whom"
        # None of the others is kept meanwhile.
        box.feedback.accepted(event("check_out"), age_s=0.1)
        time.sleep(0.2)
        assert not board.high("accepted")
        other.close()
        wait_for(lambda: box.panel.fault is None, 5, what="the pins")
        wait_for(lambda: board.high("accepted"), 5, what="the light that is still to be shown")
    assert [record.levelname for record in caplog.records if record.name == "kiosk.gpio"] == ["ERROR"]


def test_a_pin_that_stops_obeying_is_a_fault_and_is_taken_back(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kiosk.gpio._RETRY_S", 0.05)
    with Wired(plan_of(terms=RelayTerms(pulse_s=30))) as box:
        wait_for(lambda: board.pin("GPIO25").function == "output", 5, what="the pins")
        with monkeypatch.context() as broken:
            broken.setattr(Recorder, "_set_state", _fail)
            box.feedback.accepted(event(), age_s=0.1)
            wait_for(lambda: box.panel.fault is not None, 5, what="the fault")
            assert "input/output error" in str(box.panel.fault).lower()
        wait_for(lambda: box.panel.fault is None, 5, what="the pins")
        time.sleep(0.1)
    # Somebody else may stand there by now: the relay does not make up for it.
    assert board.changes("relay") == []


def _fail(*_: object) -> None:
    raise OSError(5, "Input/output error")


@pytest.mark.parametrize(
    ("environment", "modules", "line"),
    [
        ({}, {"gpiozero": None}, "gpiozero cannot be loaded"),
        ({}, {"lgpio": None}, "lgpio cannot be loaded"),
        ({"GPIOZERO_PIN_FACTORY": "nonsense"}, {}, "GPIOZERO_PIN_FACTORY: Unable to find pin factory 'nonsense'"),
    ],
)
def test_what_is_missing_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], modules: dict[str, None], line: str
) -> None:
    monkeypatch.delenv("GPIOZERO_PIN_FACTORY", raising=False)
    monkeypatch.setattr(gpiozero.Device, "pin_factory", None)
    monkeypatch.setattr("kiosk.gpio._SYSTEM_PACKAGES", "/nonexistent")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)  # type: ignore[arg-type]
    path = list(sys.path)
    with pytest.raises(GpioError) as found:
        Pins(plan_of())
    assert line in str(found.value)
    assert "\n" not in str(found.value)
    assert sys.path == path


LGPIO = '''
"""Stands in for lgpio where it meets the kernel: it has a chip, and writes down what is asked of it."""
import os
SET_PULL_NONE, SET_PULL_UP, SET_PULL_DOWN, BOTH_EDGES, RISING_EDGE, FALLING_EDGE = 128, 32, 64, 3, 1, 2
class error(Exception):
    pass
class _Tracker(dict):
    pass
modes = {}
def __getattr__(name):
    return 0
def tell(*words):
    print(*words, flush=True)
def gpiochip_open(chip):
    tell("open", chip, os.path.isdir(os.environ["LG_WD"]))
    if os.environ.get("CHIP") == "none":
        raise error("can not open gpiochip")
    return 1
def gpiochip_close(handle):
    tell("close")
def gpio_claim_input(handle, gpio, flags=0):
    modes[gpio] = 0
def gpio_claim_output(handle, gpio, level=0, flags=0):
    if os.environ.get("CHIP") == "busy":
        raise error("GPIO busy")
    modes[gpio] = 2
    tell("output", gpio, level)
def gpio_get_mode(handle, gpio):
    return modes[gpio]
def gpio_read(handle, gpio):
    return 0
def gpio_write(handle, gpio, level):
    tell("write", gpio, int(level))
'''

DRIVE = """
import sys
from kiosk import gpio
from kiosk.errors import GpioError
from kiosk.signs import Output, OutputPin, Plan
import gpiozero.pins.local as local
local.get_pi_revision = lambda: 0xc03114
gpio._SYSTEM_PACKAGES = sys.argv[1]
try:
    pins = gpio.Pins(Plan({Output.RELAY: OutputPin(25, active_low=True), Output.ACCEPTED: OutputPin(17)}, {}, {}))
except GpioError as error:
    print(error)
else:
    pins.drive(frozenset({Output.RELAY}))
    pins.close()
    print(sys.argv[1] in sys.path, sys.modules["lgpio"].__file__)
"""


@pytest.mark.parametrize(
    ("chip", "lines"),
    [
        (
            "there",
            [
                "open 0 True",
                "output 25 1",
                "output 17 0",
                "write 25 0",
                "write 25 1",
                "write 17 0",
                "close",
                "False {}/lgpio.py",
            ],
        ),
        (
            "none",
            [
                "open 0 True",
                f"/dev/gpiochip*: can not open gpiochip; {NO_GROUP}",
            ],
        ),
        (
            "busy",
            ["open 0 True", "close", "GPIO25 (feedback.pins.relay): in use by somebody else; `gpioinfo` tells by whom"],
        ),
    ],
)
def test_the_systems_lgpio_is_found_and_an_active_low_relay_never_touched_by_claiming_it(
    tmp_path: Path, repo: Path, chip: str, lines: list[str]
) -> None:
    system = tmp_path / "dist-packages"
    system.mkdir()
    (system / "lgpio.py").write_text(LGPIO, encoding="utf-8")
    environment = {**os.environ, "CHIP": chip, "PYTHONPATH": f"{repo}:{os.environ.get('PYTHONPATH', '')}"}
    for name in ("GPIOZERO_PIN_FACTORY", "LG_WD"):
        environment.pop(name, None)
    block = "import sys; sys.path[:] = [p for p in sys.path if not __import__('os').path.exists(p + '/lgpio.py')]\n"
    run = subprocess.run(
        [sys.executable, "-c", block + DRIVE, str(system)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert run.stdout.splitlines() == [line.format(system) for line in lines], run.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["dist-packages"]


# --- the whole kiosk --------------------------------------------------------------------------------------------------

PLAYED = {"pins": NUMBERS, "relay": {"pulse_s": 0.5, "without_pad": True}}


@pytest.mark.stories
def test_a_kiosk_shows_green_and_opens_once_and_only_after_the_commit(
    kiosk: Kiosk, samples: Path, board: Board, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_in_process("enroll", "obama", str(samples / "obama.jpg"), "--config", str(kiosk.config)) == 0
    clip = kiosk.folder / "clip.avi"
    obama = Person(cv2.imread(str(samples / "obama2.jpg")), Box(115, 181, 181, 181))  # type: ignore[arg-type]
    write_clip(clip, [Scene(0.3), Scene(1.0, (Walk(obama, x=(0.45, 0.55), face_px=(120, 130)),)), Scene(0.5)])
    kiosk.configure(camera={"source": str(clip), "pace": "fast"}, feedback=PLAYED)
    happened: list[tuple[str, float]] = []

    def note(owner: type, name: str) -> None:
        call = getattr(owner, name)

        def noted(*arguments: object, **named: object) -> object:
            result = call(*arguments, **named)
            happened.append((f"{name} {named.get('deciding', '')}".strip(), time.monotonic()))
            return result

        monkeypatch.setattr(owner, name, noted)

    note(Store, "record_check_in")
    note(Feedback, "_wait")
    note(Feedback, "tell_problems")
    assert run_in_process("run", "--config", str(kiosk.config)) == 0
    (stored_s,) = [at_s for what, at_s in happened if what == "record_check_in"]
    assert board.changes("accepted")[0][0] >= stored_s
    # However short the clip: the end of the kiosk ends them.
    assert [level for _, level in board.changes("accepted")] == [True, False]
    assert [level for _, level in board.changes("relay")] == [True, False]
    assert board.changes("refused") == []
    waits = [(what, at_s) for what, at_s in happened if what.startswith("_wait")]
    assert next(at_s for what, at_s in waits if what == "_wait True") < stored_s
    assert waits[-1][0] == "_wait False"
    assert "tell_problems" in dict(happened)
    assert not any(board.high(output) for output in NUMBERS)
    assert "A PHOTO MAY OPEN THE DOOR" in capsys.readouterr().err


@pytest.mark.usefixtures("board")
def test_pins_that_cannot_be_had_are_a_problem_in_health(
    kiosk: Kiosk, samples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kiosk.configure()
    with Store.open(kiosk.store) as store, gpiozero.OutputDevice(NUMBERS["relay"]), Wired(plan_of()) as wired:
        daemon = build_daemon(kiosk, store, samples)
        monkeypatch.setattr(daemon, "_panel", wired.panel)
        wait_for(lambda: wired.panel.fault is not None, 5, what="the fault")
        (told,) = [found.what for found in daemon._problems() if found.part == "feedback"]
    assert told.startswith("GPIO25 (feedback.pins.relay): in use")


def test_signs_are_tried_out_and_refused_beside_a_running_kiosk(
    kiosk: Kiosk, board: Board, capsys: pytest.CaptureFixture[str]
) -> None:
    kiosk.configure(
        feedback={"pins": {"accepted": 17, "relay": 25}, "light": {"accepted": 200}, "relay": {"pulse_s": 0.2}}
    )
    test = ("feedback", "test", "--config", str(kiosk.config))
    assert run_in_process(*test, "accepted") == 0
    assert run_in_process(*test, "refused") == 0
    assert run_in_process(*test, "relay") == 0
    assert [level for _, level in board.changes("accepted")] == [True, False]
    assert [level for _, level in board.changes("relay")] == [True, False]
    with Store.open(kiosk.store) as store, store.daemon_lock("m"):  # type: ignore[arg-type]
        assert run_in_process(*test, "accepted") == 69
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        "accepted  light on GPIO17",
        "refused   nothing: no light and no sound is set for it",
        "relay     GPIO25 for 0.2 s",
    ]
    assert err == (
        f"kiosk: the running kiosk (process {os.getpid()}) has the pins; stop it first (`sudo systemctl stop kiosk`)\n"
    )
    kiosk.configure(feedback={"pins": {}})
    assert run_in_process(*test) == 78
    assert run_in_process("feedback", "off", "--config", str(kiosk.config)) == 0
    assert "no pin is set" in capsys.readouterr().err


def test_a_signal_during_a_trial_brings_the_relay_to_rest(
    kiosk: Kiosk, board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    kiosk.configure(feedback={"pins": {"relay": 25}, "relay": {"pulse_s": 60}})
    held: list[bool] = []

    def end(_: float) -> None:
        held.append(board.high("relay"))
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()

    monkeypatch.setattr("kiosk.commands.feedback.time.sleep", end)
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert run_in_process("feedback", "test", "relay", "--config", str(kiosk.config)) == 130
    finally:
        signal.signal(signal.SIGTERM, before)
    assert held == [True]
    assert not board.high("relay")


def test_the_doctor_tells_what_is_wired_and_what_keeps_it_dark(kiosk: Kiosk, board: Board) -> None:
    from kiosk.commands.check import Doctor, Status
    from kiosk.config import load

    def findings(**feedback: object) -> list[tuple[Status, str]]:
        kiosk.configure(feedback=feedback)
        return [(found.status, found.message) for found in Doctor(load(kiosk.config, {}))._check_feedback()]

    assert findings() == []
    assert findings(pins={"accepted": 17}) == [(Status.OK, "accepted on GPIO17")]
    pins, (status, told) = findings(pins={"accepted": 17, "relay": 25})
    assert pins == (Status.OK, "accepted on GPIO17, relay on GPIO25")
    assert status is Status.WARN
    assert told.startswith("the relay stays off for faces: no pad bundle in ")
    with gpiozero.OutputDevice(25):
        taken, (status, told) = findings(relay={"without_pad": True})
    assert taken == (Status.WARN, "GPIO25 (feedback.pins.relay): in use by somebody else; `gpioinfo` tells by whom")
    assert status is Status.WARN
    assert "A PHOTO MAY OPEN THE DOOR" in told
    assert not board.high("accepted")
