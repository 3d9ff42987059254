"""MQTT 5 through paho-mqtt; the only package that imports it."""

from kiosk.mqtt._broker import MqttBroker, check_broker
from kiosk.mqtt._settings import BrokerSettings, Tls

__all__ = ["BrokerSettings", "MqttBroker", "Tls", "check_broker"]
