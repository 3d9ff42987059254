"""The running daemon under attack: ``kiosk run`` with a real broker, a hostile camera and a store that others write."""

from __future__ import annotations

import contextlib
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from broker import Mosquitto, Subscriber, wait_for
from command_line import Kiosk
from faults.doors import enroll_samples, last_seq
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from fuzz.harness import Result
from fuzz.mutation import BYTES, damage_jpeg, mutate, splice
from fuzz.surfaces import SAMPLES, Feed, Replays, wrapped
from kiosk.biometrics import Box, ModelId, SubjectId
from kiosk.clip import Person, Scene, Walk, draw_frames
from kiosk.opencv import cv2
from kiosk.photo import read_photo
from kiosk.store import NewTemplate, Store

DEVICE = "kiosk/v1/hq/door-1"
_TOPICS = (
    "cmd/replay",
    "cmd/replay",
    "cmd/replay",
    "cmd/enroll",
    "cmd",
    "status",
    "info",
    "event/attendance",
    "health",
    "x",
)
_BATCH = 25
_RECOVERY_S = 30.0
_MOST_LOG_BYTES = 1 << 20


def attack_daemon(folder: Path, *, seed: int, count: int) -> Result:
    """Three of four inputs are MQTT messages, the fourth is sent by the camera; now and then somebody is enrolled.

    Sound: the daemon lives, records check-ins afterwards, ends with exit code 0, and has logged no traceback.
    """
    result = Result("daemon")
    kiosk = enroll_samples(Kiosk(folder, "auto"), SAMPLES)
    feed = Feed(_visitors(), interval_s=0.1)
    began_s = time.monotonic()
    with Mosquitto(folder) as broker, Subscriber(broker.port, "#") as attacker:
        kiosk.configure(
            device={"site": "hq", "id": "door-1"},
            camera={"source": feed.url, "read_timeout_s": 1},
            match={"refractory_s": 1},
            mqtt={"enabled": True, "host": "127.0.0.1", "port": broker.port},
        )
        log = folder / "log"
        with log.open("wb") as out:
            command = [sys.executable, "-m", "kiosk", "run", "--config", str(kiosk.config), "-v"]
            process = subprocess.Popen(command, stdout=out, stderr=out, cwd=folder)
        try:
            _await_check_ins(kiosk, process, 3)
            result.valid_peak_kib = _peak_kib(process.pid)
            _attack(result, attacker, feed, kiosk, process, random.Random(f"{seed}/daemon"), count)  # noqa: S311
            began_again_s = time.monotonic()
            _await_check_ins(kiosk, process, last_seq(kiosk.store) + 2)
            # Not of one input: until two more check-ins.
            result.slowest_s = round(time.monotonic() - began_again_s, 1)
            result.growth_kib = _peak_kib(process.pid) - result.valid_peak_kib
            process.send_signal(signal.SIGTERM)
            code = process.wait(30)
            if code != 0:
                result.crashes += 1
                result.defects.append({"index": count, "what": f"ended with {code}"})
        except (AssertionError, subprocess.TimeoutExpired) as error:
            died = process.poll()
            result.crashes += died is not None
            result.hangs += died is None
            result.defects.append({"index": result.inputs, "what": f"{error}; exit code {died}"})
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait(10)
            feed.close()
    _look_at_log(result, log.read_text(errors="replace"))
    result.seconds = round(time.monotonic() - began_s, 1)
    return result


def _visitors() -> list[bytes]:
    """Two people pass one after the other, seen by an MJPEG camera."""
    scenes = []
    for name, box in (("obama2.jpg", Box(115, 181, 181, 181)), ("biden.jpg", Box(275, 173, 189, 189))):
        walk = Walk(Person(read_photo(SAMPLES / name), box), x=(0.45, 0.55), face_px=(110, 120))
        scenes += [Scene(0.8, (walk,)), Scene(0.6)]
    frames = draw_frames(scenes, size=(480, 360))
    return [wrapped(cv2.imencode(".jpg", frame)[1].tobytes()) for frame in frames]


def _attack(
    result: Result,
    attacker: Subscriber,
    feed: Feed,
    kiosk: Kiosk,
    process: subprocess.Popen[bytes],
    rng: random.Random,
    count: int,
) -> None:
    seeds = Replays.payload_seeds()
    for index in range(count):
        if index % 4 == 3:
            feed.send(_camera_garbage(feed.good, rng))
        else:
            _publish(attacker, seeds, rng)
        result.inputs += 1
        if index % _BATCH == 0:
            assert process.poll() is None, "the daemon has ended"
            # What the broker and the camera hold must not pile up without bound.
            wait_for(lambda: feed.waiting < _BATCH, _RECOVERY_S, what="a camera connection")
            time.sleep(0.05)
        if index % 400 == 200:
            _enroll_somebody(kiosk, index)
    result.outcomes = {"sent": count}


def _publish(attacker: Subscriber, seeds: list[bytes], rng: random.Random) -> None:
    payload = rng.choice(seeds)
    if rng.random() < 0.8:
        payload = mutate(payload, rng, (*BYTES, splice([b"[" * 900, b"\xff", b"9" * 500, b'"id"', b"null", b"1e9"])))
    if rng.random() < 0.02:
        payload += bytes(rng.choice([5000, 20_000, 200_000]))
    properties: Any = Properties(PacketTypes.PUBLISH)
    if rng.random() < 0.3:
        properties.MessageExpiryInterval = rng.choice([0, 1, 5, 0xFFFFFFFF])
    if rng.random() < 0.2:
        properties.UserProperty = [("k" * rng.choice([1, 900]), "\N{RIGHT-TO-LEFT OVERRIDE}v")]
        properties.ResponseTopic = "a/b"
        properties.CorrelationData = rng.randbytes(9)
    topic = f"{DEVICE}/{rng.choice(_TOPICS)}"
    attacker._client.publish(topic, payload, qos=rng.randrange(3), retain=rng.random() < 0.2, properties=properties)


def _camera_garbage(good: list[bytes], rng: random.Random) -> bytes:
    part = rng.choice(good)
    if rng.random() < 0.5:
        return mutate(part, rng)
    jpeg = part.split(b"\r\n\r\n", 1)[1].removesuffix(b"\r\n")
    return wrapped(damage_jpeg(jpeg, rng) if rng.random() < 0.5 else mutate(jpeg, rng))


def _enroll_somebody(kiosk: Kiosk, number: int) -> None:
    """Another process writes: the daemon loads the gallery anew."""
    with Store.open(kiosk.store) as store:
        (model,) = {model for models in store.subject_models().values() for model in models}
        vector = random_vector(number)
        store.enroll(SubjectId(f"V{number}"), [NewTemplate(ModelId(model), vector)])
        store.remove_subject(f"V{number}")


def random_vector(number: int) -> Any:
    import numpy as np

    values = np.random.default_rng(number).standard_normal(128).astype(np.float32)
    return values / np.linalg.norm(values)


def _await_check_ins(kiosk: Kiosk, process: subprocess.Popen[bytes], seq: int) -> None:
    def reached() -> bool:
        assert process.poll() is None, "the daemon has ended"
        return kiosk.store.exists() and last_seq(kiosk.store) >= seq

    wait_for(reached, _RECOVERY_S, what=f"event {seq}")


def _peak_kib(pid: int) -> int:
    return int(Path(f"/proc/{pid}/status").read_text().split("VmHWM:")[1].split()[0])


def _look_at_log(result: Result, log: str) -> None:
    for word in ("Traceback", "internal error", "unexpectedly"):
        if word in log:
            result.defect_count += 1
            at = log.index(word)
            result.defects.append({"index": -1, "what": log[max(at - 200, 0) : at + 600]})
    if len(log) > _MOST_LOG_BYTES:
        result.defect_count += 1
        result.defects.append({"index": -1, "what": f"a log of {len(log)} bytes"})
