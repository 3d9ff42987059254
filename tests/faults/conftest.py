"""How much of every fault: two forms, each in one place; a seed that is always the same; figures as JSON."""

from __future__ import annotations

import json
import platform
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from broker import Mosquitto
from command_line import Kiosk

from faults.consumer import Consumer
from faults.doors import enroll_samples, write_visits
from faults.proxy import KINDS

Record = Callable[..., None]


@dataclass(frozen=True, slots=True)
class Scale:
    """How much the tests do."""

    kills: int
    """SIGKILLs of the daemon, over all kiosks together."""
    power_cuts: int
    network_minutes: float
    """At least so long the network faults go on; every kind comes at least once."""
    fault_s: tuple[float, float]
    """Shortest and longest network fault."""
    black_hole_s: tuple[float, float]
    """The same for black holes: only what is held longer than an event may be live can come out stale."""
    terminations: int
    """SIGTERMs at random instants."""


SHORT = Scale(kills=24, power_cuts=50, network_minutes=0, fault_s=(1.2, 1.8), black_hole_s=(18, 20), terminations=3)
LONG = Scale(kills=1000, power_cuts=1000, network_minutes=30, fault_s=(2, 40), black_hole_s=(2, 40), terminations=100)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("faults", "fault tests (tests/faults)")
    group.addoption("--faults", choices=["short", "long"], default="short", help="how much of everything")
    group.addoption("--kills", type=int, help="SIGKILLs of the daemon")
    group.addoption("--power-cuts", type=int, help="power cuts of a file system")
    group.addoption("--network-minutes", type=float, help="how long the network faults go on")
    group.addoption("--network-faults", help="only these, separated by commas")
    group.addoption("--fault-seed", type=int, default=4, help="decides every instant that is chosen at random")
    group.addoption("--fault-results", type=Path, help="folder for what was measured, one JSON document a test")


@pytest.fixture(scope="session")
def scale(request: pytest.FixtureRequest) -> Scale:
    # Without this folder on the command line pytest reads this file too late for its options: the defaults count.
    option = request.config.getoption
    given = {name: option(name, None) for name in ("kills", "power_cuts", "network_minutes")}
    form = LONG if option("faults", "short") == "long" else SHORT
    return replace(form, **{name: value for name, value in given.items() if value is not None})


@pytest.fixture(scope="session")
def seed(request: pytest.FixtureRequest) -> int:
    return int(request.config.getoption("fault_seed", 4))


@pytest.fixture(scope="session")
def network_faults(request: pytest.FixtureRequest) -> list[str]:
    """The kinds of faults to play; by default all."""
    chosen = request.config.getoption("network_faults", None)
    return KINDS if chosen is None else [KINDS[KINDS.index(kind.strip())] for kind in chosen.split(",")]


@pytest.fixture
def rng(request: pytest.FixtureRequest, seed: int) -> np.random.Generator:
    """The same instants for the same test and seed, whatever other tests do."""
    return np.random.default_rng([seed, zlib.crc32(request.node.name.encode())])


@pytest.fixture
def record(request: pytest.FixtureRequest, seed: int, scale: Scale) -> Record:
    """Print what was measured and write it where ``--fault-results`` says."""

    def record(name: str, **figures: Any) -> None:
        document = {
            "test": request.node.nodeid,
            "seed": seed,
            "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": f"{platform.machine()}, Linux {platform.release()}, Python {platform.python_version()}",
            **figures,
        }
        text = json.dumps(document, indent=1, ensure_ascii=False)
        print(f"{name} ({scale}): {text}")  # noqa: T201 - seen with -s, and whenever the test fails
        folder: Path | None = request.config.getoption("fault_results", None)
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")

    return record


@pytest.fixture(scope="session")
def enrolled(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest, samples: Path) -> Kiosk:
    """A kiosk that knows everybody in the clips; copy its store."""
    return enroll_samples(Kiosk(tmp_path_factory.mktemp("home"), request.config.getoption("--runtime")), samples)


@pytest.fixture(scope="session")
def visits(tmp_path_factory: pytest.TempPathFactory, samples: Path) -> Path:
    """A clip in which somebody else arrives every 0.75 s."""
    path = tmp_path_factory.mktemp("clip") / "visits.avi"
    write_visits(path, samples)
    return path


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    """A broker that keeps sessions and queues over an orderly stop, as Debian's does, and drops none for their number.

    Killed, it forgets what happened since it was started.
    """
    extra = f"persistence true\npersistence_location {tmp_path}/\nautosave_interval 1800\nmax_queued_messages 0"
    with Mosquitto(tmp_path, extra=extra) as broker:
        yield broker


@pytest.fixture
def consumer(broker: Mosquitto) -> Iterator[Consumer]:
    with Consumer(broker.port) as consumer:
        yield consumer
