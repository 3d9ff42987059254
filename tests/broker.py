"""A real mosquitto on a loopback port that stays the same over restarts, and a subscriber that remembers."""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest
from paho.mqtt.client import Client, ConnectFlags, MQTTMessage, MQTTMessageInfo
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

_SEARCH_PATH = os.pathsep.join(
    [os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin"]
)

# Where every instruction is emulated, a process takes seconds to start: what is waited for may take so many times as
# long (docs/arm64.md).
_PATIENCE = float(os.environ.get("TEST_PATIENCE", "1"))


def find_mosquitto() -> str:
    """The broker's program; without it the test is skipped, or fails where CI=true."""
    found = shutil.which("mosquitto", path=_SEARCH_PATH)
    if found is None:
        reason = "mosquitto is not installed (Debian: apt-get install mosquitto)"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def wait_for(condition: Callable[[], object], timeout_s: float = 10.0, *, what: str = "condition") -> None:
    """Poll until the condition is true; fails with AssertionError after ``timeout_s``."""
    deadline = time.monotonic() + timeout_s * _PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"{what} not met within {timeout_s:g} s"
        time.sleep(0.01)


@dataclass(frozen=True)
class ServerTls:
    """Files of the broker's side; ``require_certificate`` asks clients for one of the same CA."""

    ca_file: Path
    cert_file: Path
    key_file: Path
    require_certificate: bool = False


def make_certificates(folder: Path, *names: str) -> None:
    """``ca.crt`` and, signed by it, ``NAME.crt`` and ``NAME.key`` for every name; a slash becomes a hyphen."""

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc"]
    openssl("req", "-x509", *new_key, "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=test ca", "-days", "2")
    (folder / "san").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    for name in names:
        file, common_name = name.replace("/", "-"), name.replace("/", "\\/")
        openssl("req", *new_key, "-keyout", f"{file}.key", "-out", f"{file}.csr", "-subj", f"/CN={common_name}")
        signed_by = ["-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "san", "-days", "2"]
        openssl("x509", "-req", "-in", f"{file}.csr", "-out", f"{file}.crt", *signed_by)
    for path in folder.iterdir():
        path.chmod(0o600)


class Mosquitto:
    """``users`` maps names to passwords, ``acl`` is the text of an ACL file, ``extra`` more configuration lines.

    ``address`` is where it listens.
    """

    def __init__(
        self,
        folder: Path,
        *,
        users: Mapping[str, str] | None = None,
        acl: str | None = None,
        tls: ServerTls | None = None,
        extra: str = "",
        address: str = "127.0.0.1",
    ) -> None:
        self.port = free_port()
        self._address = address
        self._folder = folder
        self._program = find_mosquitto()
        self._users = dict(users or {})
        self._acl = acl
        self._tls = tls
        self._extra = extra
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    def start(self) -> None:
        config = self._write_config()
        with (self._folder / "mosquitto.log").open("ab") as log:
            self._process = subprocess.Popen([self._program, "-c", str(config)], stdout=log, stderr=log)
        wait_for(self._accepts, what=f"mosquitto on port {self.port}")

    def stop(self) -> None:
        """SIGTERM, as at a shutdown."""
        self._end(subprocess.Popen.terminate)

    def kill(self) -> None:
        """SIGKILL, as at a power cut."""
        self._end(subprocess.Popen.kill)

    def restart(self) -> None:
        self.kill()
        self.start()

    def set_acl(self, acl: str) -> None:
        """Replace the ACL of the running broker; it takes effect for messages from now on."""
        self._acl = acl
        self._write_config()
        assert self._process is not None
        self._process.send_signal(1)  # SIGHUP: reload

    def log_text(self) -> str:
        return (self._folder / "mosquitto.log").read_text(errors="replace")

    def _accepts(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"mosquitto ended: {self.log_text()}"
        with contextlib.suppress(OSError), socket.create_connection((self._address, self.port), timeout=1):
            return True
        return False

    def _end(self, how: Callable[[subprocess.Popen[bytes]], None]) -> None:
        if self._process is not None:
            how(self._process)
            self._process.wait(10)
            self._process = None

    def _write_config(self) -> Path:
        # As root mosquitto would become another user, who cannot read the files of this test.
        lines = [f"listener {self.port} {self._address}", f"user {getpass.getuser()}", "log_type all", self._extra]
        if self._tls:
            lines += [f"cafile {self._tls.ca_file}", f"certfile {self._tls.cert_file}", f"keyfile {self._tls.key_file}"]
            lines += [f"require_certificate {str(self._tls.require_certificate).lower()}"]
        if self._users:
            lines += ["allow_anonymous false", f"password_file {self._write_passwords()}"]
        else:
            lines += ["allow_anonymous true"]
        if self._acl is not None:
            path = self._folder / "acl"
            path.write_text(self._acl)
            path.chmod(0o600)
            lines += [f"acl_file {path}"]
        config = self._folder / "mosquitto.conf"
        config.write_text("\n".join(lines) + "\n")
        return config

    def _write_passwords(self) -> Path:
        path = self._folder / "passwords"
        path.write_text("".join(f"{user}:{password}\n" for user, password in self._users.items()))
        path.chmod(0o600)
        program = shutil.which("mosquitto_passwd", path=_SEARCH_PATH) or "mosquitto_passwd"
        subprocess.run([program, "-U", str(path)], check=True, capture_output=True)
        return path


@dataclass(frozen=True)
class Message:
    topic: str
    payload: bytes
    retain: bool
    qos: int

    def json(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.payload)
        return document


class Subscriber:
    """Collects every message of a topic filter in order of arrival; connects again by itself.

    With ``qos=0`` it has everything the broker wrote before being killed: a client that acknowledges may give up on
    its connection before it has read the rest.
    """

    def __init__(
        self,
        port: int,
        topic: str = "#",
        *,
        qos: int = 1,
        username: str | None = None,
        password: str | None = None,
        ca_file: Path | None = None,
        certificate: tuple[Path, Path] | None = None,
    ) -> None:
        self.messages: list[Message] = []
        self.reasons: list[int] = []
        """The broker's answers to what was sent, in no order."""
        self._topic = topic
        self._qos = qos
        self._subscribed = threading.Event()
        self._client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
        if username is not None:
            self._client.username_pw_set(username, password)
        if ca_file is not None:
            self._client.tls_set(str(ca_file), *map(str, certificate or ()))
        self._client.on_connect = self._on_connect
        self._client.on_publish = lambda _c, _u, _m, reason, _p: self.reasons.append(reason.value)
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.on_disconnect = lambda *_: self._subscribed.clear()
        self._client.on_message = self._on_message
        self._client.reconnect_delay_set(1, 1)
        self._client.connect_async("127.0.0.1", port)

    def __enter__(self) -> Self:
        self._client.loop_start()
        self.wait_subscribed()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def publish(self, topic: str, payload: bytes, *, retain: bool = False, expires_in_s: int | None = None) -> None:
        """Send something ourselves, at QoS 1, and wait for the PUBACK."""
        self.send(topic, payload, retain=retain, expires_in_s=expires_in_s).wait_for_publish(10)

    def send(
        self, topic: str, payload: bytes, *, retain: bool = False, expires_in_s: int | None = None
    ) -> MQTTMessageInfo:
        """The same without waiting."""
        properties = Properties(PacketTypes.PUBLISH)
        if expires_in_s is not None:
            properties.MessageExpiryInterval = expires_in_s
        return self._client.publish(topic, payload, qos=1, retain=retain, properties=properties)

    def has_answers(self, count: int) -> bool:
        """Whether the broker has answered so many messages."""
        return len(self.reasons) >= count

    def wait_subscribed(self, timeout_s: float = 10.0) -> None:
        assert self._subscribed.wait(timeout_s * _PATIENCE), "the subscriber got no connection"

    def on(self, topic_end: str) -> list[Message]:
        """Messages so far whose topic ends so."""
        return [message for message in self.messages if message.topic.endswith(topic_end)]

    def wait_for(self, topic_end: str, count: int = 1, timeout_s: float = 10.0) -> list[Message]:
        """Wait for ``count`` messages of a topic."""
        wait_for(
            lambda: len(self.on(topic_end)) >= count,
            timeout_s,
            what=f"{count} messages on {topic_end} (have {len(self.on(topic_end))})",
        )
        return self.on(topic_end)

    def _on_connect(self, client: Client, _u: object, _f: ConnectFlags, _r: ReasonCode, _p: Properties | None) -> None:
        client.subscribe(self._topic, qos=self._qos)

    def _on_message(self, _c: Client, _u: object, message: MQTTMessage) -> None:
        self.messages.append(Message(message.topic, bytes(message.payload), message.retain, message.qos))


@contextlib.contextmanager
def listening(folder: Path, topic: str = "#", **options: Any) -> Iterator[tuple[Mosquitto, Subscriber]]:
    """A broker and a subscriber to it, both running."""
    with Mosquitto(folder, **options) as broker, Subscriber(broker.port, topic) as subscriber:
        yield broker, subscriber
