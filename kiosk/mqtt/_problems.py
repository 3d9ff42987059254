"""What went wrong with the broker, in one line that names the setting to look at."""

from __future__ import annotations

import socket
import ssl

from paho.mqtt.reasoncodes import ReasonCode

from kiosk.errors import ConfigError
from kiosk.mqtt._settings import BrokerSettings, words

_REFUSES_LOGIN = frozenset({0x86, 0x87, 0x8C})
"""Bad user name or password, not authorized, bad authentication method."""
_TAKEN_OVER = 0x8E
_NOT_AUTHORIZED = 0x87


def login_problem(settings: BrokerSettings, refusal: ReasonCode | None, *, answered: bool) -> str:
    where = f"broker {settings.address}"
    if not answered:
        return f"{where} accepts connections but does not answer in MQTT; check mqtt.port and mqtt.tls"
    if refusal is None:
        return f"{where} closes the connection before logging in; check mqtt.port and mqtt.tls"
    if refusal.value in _REFUSES_LOGIN:
        if settings.username is not None and settings.password_file is None:
            return (
                f"{where} refuses the login ({refusal}), for which there is no password; set mqtt.password_file, "
                "or run with the systemd credential mqtt-password"
            )
        return f"{where} refuses the login ({refusal}); check mqtt.username and mqtt.password_file"
    return f"{where} refuses the connection: {refusal}"


def connect_problem(settings: BrokerSettings, error: Exception) -> str:
    where = f"broker {settings.address}"
    match error:
        case ConfigError():
            problem = str(error)
        case ssl.SSLCertVerificationError():
            problem = f"{where}: its certificate is not trusted ({error.verify_message}); check mqtt.tls.ca_file"
        case ssl.SSLError():
            problem = f"{where}: TLS fails ({words(error)}); check mqtt.port and mqtt.tls"
        case socket.gaierror():
            problem = f"broker host {settings.host!r} is not known ({words(error)}); check mqtt.host"
        case TimeoutError():
            problem = f"{where} does not answer; check mqtt.host, mqtt.port and the network"
        case ConnectionRefusedError():
            problem = f"{where}: nothing listens there; start the broker or check mqtt.host and mqtt.port"
        case _:
            problem = f"{where} cannot be reached: {words(error)}; check mqtt.host, mqtt.port and mqtt.tls"
    return problem


def refusal(reason: ReasonCode) -> str:
    """Why a message was not taken. Goes into ``health``: no login in it."""
    remedy = "; check device.site, device.id, mqtt.username and the broker's ACL"
    return f"the broker refuses it: {reason}{remedy if reason.value == _NOT_AUTHORIZED else ''}"


def refused_write(settings: BrokerSettings, topic: str, detail: str) -> str:
    """For this machine: what was refused to whom. ``detail``: of the receipt."""
    user = "without mqtt.username" if settings.username is None else f"as the user {settings.username!r}"
    return f"broker {settings.address}: writing to {topic} {user}: {detail}"


def end_problem(settings: BrokerSettings, told: ReasonCode | None) -> str:
    if told is None:
        return f"the connection to broker {settings.address} broke"
    if told.value == _TAKEN_OVER:
        return f"broker {settings.address}: another client uses this kiosk's id; give each kiosk its own device.id"
    return f"broker {settings.address} ended the connection: {told}"
