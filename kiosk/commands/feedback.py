"""``kiosk feedback``: try out lights, buzzer and relay while wiring the box, and bring them to rest."""

from __future__ import annotations

import math
import signal
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kiosk.commands.options import Number, common_options, load
from kiosk.errors import ConfigError, GpioError
from kiosk.gpio import Pins
from kiosk.signs import Output, Plan, Sign

if TYPE_CHECKING:
    from kiosk.config import Config

_RELAY = Output.RELAY.value
_LIGHTS = {
    Sign.ACCEPTED: Output.ACCEPTED,
    Sign.REPEAT: Output.ACCEPTED,
    Sign.REFUSED: Output.REFUSED,
    Sign.WAIT: Output.WAIT,
    Sign.FAULT: Output.FAULT,
}


@click.group("feedback")
def command() -> None:
    """Try out lights, buzzer and relay at the door.

    Which pins they hang on is set in the configuration, section feedback (docs/feedback.md).
    """


@command.command("test")
@click.argument("what", metavar="[WHAT]", type=click.Choice([*(sign.value for sign in Sign), _RELAY]), required=False)
@click.option(
    "--seconds",
    type=Number(min=1, max=600),
    default=6.0,
    metavar="S",
    help="How long to show wait and fault, which have no end of their own, 1 to 600. Default: 6.",
)
@common_options
def test_command(*, what: str | None, seconds: float, config_path: Path | None, verbose: int) -> None:
    """Show one sign as the running kiosk would, or all of them.

    WHAT is accepted, repeat (recorded already), refused, wait, fault, or relay, which moves only if it is named: it
    may open the door. The running kiosk has the pins for itself: stop it first.
    """
    config = load(config_path, verbose)
    plan = _plan(config)
    if what == _RELAY and Output.RELAY not in plan.pins:
        raise ConfigError("feedback.pins.relay is not set: there is no relay to move")
    _refuse_beside_the_daemon(config)
    # Ended by whatever signal: the pins are brought to rest.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with closing(Pins(plan)) as pins:
        for sign in [what] if what is not None else list(Sign):
            shown = _describe(plan, sign)
            click.echo(f"{sign:<8}  {shown or 'nothing: no light and no sound is set for it'}")
            if shown:
                _show(plan, pins, sign, seconds)


@command.command("off")
@common_options
def off_command(*, config_path: Path | None, verbose: int) -> None:
    """Bring every output to rest and release the pins, after a kiosk that was killed.

    A kiosk that ends in order does so itself. On a Raspberry Pi a pin keeps its level when the process that drove it
    is killed; so the service runs this whenever it has stopped.
    """
    plan = load(config_path, verbose).feedback.plan()
    if plan is not None:
        Pins(plan).close()


def _plan(config: Config) -> Plan:
    plan = config.feedback.plan()
    if plan is None:
        raise ConfigError("feedback.pins: no pin is set, so that there is nothing to show; see docs/feedback.md")
    return plan


def _refuse_beside_the_daemon(config: Config) -> None:
    from kiosk.commands.stores import find_daemon

    daemon = find_daemon(config)
    if daemon is not None:
        raise GpioError(
            f"the running kiosk (process {daemon.process}) has the pins; stop it first (`sudo systemctl stop kiosk`)"
        )


def _describe(plan: Plan, sign: str) -> str:
    """On which pins a sign is shown; empty: on none."""
    if sign == _RELAY:
        return f"GPIO{plan.pins[Output.RELAY].number} for {plan.relay.pulse_s:g} s"
    light = plan.pins.get(_LIGHTS[Sign(sign)])
    if sign == Sign.FAULT and light is None:
        light = plan.pins.get(Output.REFUSED)
    buzzer = plan.pins.get(Output.BUZZER)
    told = [
        *([] if light is None else [f"light on GPIO{light.number}"]),
        *([] if buzzer is None or Sign(sign) not in plan.sounds else [f"buzzer on GPIO{buzzer.number}"]),
    ]
    return ", ".join(told)


def _show(plan: Plan, pins: Pins, sign: str, seconds: float) -> None:
    from kiosk.feedback import Feedback

    feedback = Feedback(plan, guarded=False)
    ends_s = time.monotonic() + seconds if sign in {Sign.WAIT, Sign.FAULT} else math.inf
    feedback.try_out(Output.RELAY if sign == _RELAY else Sign(sign))
    while True:
        now_s = time.monotonic()
        picture = feedback.at(now_s)
        until_s = min(picture.until_s, ends_s)
        if now_s >= ends_s or until_s == math.inf:
            pins.drive(frozenset())
            return
        pins.drive(picture.on)
        time.sleep(max(0.0, until_s - time.monotonic()))
