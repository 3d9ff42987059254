"""Where the broker is, who we are, and a paho client prepared with it."""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass
from pathlib import Path

from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from kiosk.credentials import warn_if_open
from kiosk.errors import BrokerError, ConfigError, ConfigPermissionError
from kiosk.hosts import is_loopback


@dataclass(frozen=True, slots=True)
class Tls:
    """Files for a TLS connection; without ``ca_file`` the system's certificate authorities count."""

    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None


@dataclass(frozen=True, slots=True)
class BrokerSettings:
    """Where the broker is and who we are. The password is read from its file at every connection.

    Without ``tls`` only a broker on this machine is talked to, unless ``allow_plaintext`` says otherwise.
    """

    host: str
    port: int
    username: str | None = None
    password_file: Path | None = None
    tls: Tls | None = None
    allow_plaintext: bool = False

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"


def check_files(settings: BrokerSettings) -> None:
    """Raise ConfigError for a password or TLS file that cannot be used; warn of a password others may read."""
    prepared_client(settings, "unused", None)
    if settings.password_file is not None:
        warn_if_open(settings.password_file)


def prepared_client(settings: BrokerSettings, client_id: str, will: tuple[str, bytes] | None) -> Client:
    client = Client(
        CallbackAPIVersion.VERSION2,
        client_id=client_id,
        protocol=MQTTProtocolVersion.MQTTv5,
        reconnect_on_failure=False,
    )
    if settings.username is not None:
        client.username_pw_set(settings.username, _password(settings.password_file))
    if settings.tls is not None:
        _use_tls(client, settings.tls)
    elif not settings.allow_plaintext:
        client.on_socket_open = lambda _client, _userdata, sock: _insist_on_this_machine(sock, settings)
    if will is not None:
        client.will_set(will[0], will[1], qos=1, retain=True)
    return client


def _insist_on_this_machine(sock: object, settings: BrokerSettings) -> None:
    """Called by paho when the socket is connected and nothing is sent yet: a name like localhost may lead anywhere.

    Raises:
        BrokerError: the other end is another machine.
    """
    if not isinstance(sock, socket.socket):
        return
    peer = str(sock.getpeername()[0]).partition("%")[0]
    if not is_loopback(peer):
        sock.close()
        raise BrokerError(
            f"broker {settings.address} is {peer}, another machine, and nothing is sent there without TLS; "
            "set mqtt.tls, or mqtt.allow_plaintext: true"
        )


def _password(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        return path.read_text(encoding="utf-8").rstrip("\r\n")
    except PermissionError as error:
        raise ConfigPermissionError(
            f"mqtt.password_file: {path}: may not be read by this user; run as its owner, or give it to this user"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"mqtt.password_file: {path}: {words(error)}") from error


def _use_tls(client: Client, tls: Tls) -> None:
    files = {"ca_file": tls.ca_file, "cert_file": tls.cert_file, "key_file": tls.key_file}
    for name, path in files.items():
        if path is not None and not path.is_file():
            raise ConfigError(f"mqtt.tls.{name}: {path}: no such file")
    paths = [str(path) if path else None for path in files.values()]
    try:
        client.tls_set(ca_certs=paths[0], certfile=paths[1], keyfile=paths[2])
    except ssl.SSLError as error:
        raise ConfigError(f"mqtt.tls: not usable as PEM certificate and key: {words(error)}") from error
    except OSError as error:
        raise ConfigError(f"mqtt.tls: {words(error)}") from error


def words(error: Exception) -> str:
    """The reason alone, without errno and repeated file name."""
    return getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
