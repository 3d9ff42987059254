"""Where the page is served, to whom, and what must be true before it is."""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass
from pathlib import Path

from kiosk.config import Config
from kiosk.credentials import find_credential, warn_if_open
from kiosk.errors import ConfigError, UnavailableError
from kiosk.hosts import is_loopback

_CREDENTIAL = "web-password"  # the name systemd hands it over by
_SHORTEST_PASSWORD = 10


@dataclass(frozen=True, slots=True)
class WebSettings:
    """``password``: None, nobody is asked for one. ``local``: only this machine can reach the page."""

    host: str
    port: int
    password: str | None
    cert_file: Path | None
    key_file: Path | None

    @property
    def local(self) -> bool:
        return is_loopback(self.host)

    @property
    def scheme(self) -> str:
        return "http" if self.cert_file is None else "https"

    @property
    def address(self) -> str:
        """As a browser takes it."""
        named = socket.gethostname() if self.host in {"0.0.0.0", "::"} else self.host  # noqa: S104 - compared with
        host = f"[{named}]" if ":" in named else named
        return f"{self.scheme}://{host}:{self.port}/"


def web_settings(config: Config) -> WebSettings:
    """What ``web`` says, once it is safe to serve.

    Raises:
        ConfigError: other machines could reach the page without a password or without TLS, or a file cannot be used.
    """
    web = config.web
    password = _password(web.password_file or find_credential(_CREDENTIAL))
    if not is_loopback(web.host):
        if password is None:
            raise ConfigError(
                f"web.host: {web.host} can be reached from other machines and no password is set; set "
                "web.password_file, or web.host: 127.0.0.1"
            )
        if web.tls is None and not web.allow_plaintext:
            raise ConfigError(
                f"web.host: {web.host} can be reached from other machines and TLS is off, so that anybody on the way "
                "could read the password and what the camera sees; set web.tls, or web.allow_plaintext: true"
            )
    cert_file, key_file = (None, None) if web.tls is None else _check_tls(web.tls.cert_file, web.tls.key_file)
    return WebSettings(web.host, web.port, password, cert_file, key_file)


def bind(settings: WebSettings) -> socket.socket:
    """The socket that listens.

    Raises:
        UnavailableError: the port is taken, or the address is none of this machine's.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
    except OSError as error:
        raise UnavailableError(f"web.host: {settings.host}: {error.strerror}") from error
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen()
    except OSError as error:
        listening.close()
        raise UnavailableError(
            f"web: {settings.host}, port {settings.port}: {error.strerror}; set web.port to another one, or end who "
            "has it (a running kiosk with web.enabled serves the page already)"
        ) from error
    return listening


def _password(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        password = path.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "is not UTF-8 text"
        raise ConfigError(f"web.password_file: {path}: {reason}; write the password into it, chmod 600") from error
    if len(password) < _SHORTEST_PASSWORD:
        raise ConfigError(f"web.password_file: {path}: a password of {_SHORTEST_PASSWORD} characters or more is needed")
    warn_if_open(path)
    return password


def _check_tls(cert_file: Path | None, key_file: Path | None) -> tuple[Path, Path]:
    if cert_file is None or key_file is None:
        raise ConfigError("web.tls: cert_file and key_file are both needed")
    for name, path in (("cert_file", cert_file), ("key_file", key_file)):
        if not path.is_file():
            raise ConfigError(f"web.tls.{name}: {path}: no such file")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert_file, key_file)
    except ssl.SSLError as error:
        raise ConfigError(
            f"web.tls: {cert_file} and {key_file} are not a PEM certificate and its key ({error.reason or error}); see "
            "that neither stands in the other's place"
        ) from error
    except OSError as error:
        raise ConfigError(f"web.tls: {error.filename or key_file}: {error.strerror}") from error
    warn_if_open(key_file)
    return cert_file, key_file
