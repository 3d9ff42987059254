"""Home Assistant itself, as far as it is needed: its core, its MQTT integration and automations, nothing else.

Runs in an environment of its own (``just home-assistant``), never beside the kiosk. ``python home_assistant.py PORT
AUTOMATION``: connect to the broker there, with an automation (JSON). Each line on stdin is answered by one on stdout:
all states with their attributes, and what was complained of since. The end of stdin ends it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import tempfile
from pathlib import Path

from homeassistant import bootstrap, config_entries, core, loader
from homeassistant.const import EVENT_HOMEASSISTANT_STARTED
from homeassistant.setup import async_setup_component


class _Complaints(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(f"{record.name}: {self.format(record)}")


async def serve(port: int, automation: dict[str, object], folder: str) -> None:
    complaints = _Complaints()
    for name in ("homeassistant.components", "homeassistant.helpers.template", "homeassistant.config_entries"):
        logging.getLogger(name).addHandler(complaints)
    hass = core.HomeAssistant(folder)
    hass.config.skip_pip = True
    hass.config_entries = config_entries.ConfigEntries(hass, {})
    loader.async_setup(hass)
    await bootstrap.async_load_base_functionality(hass)
    await hass.config_entries.async_initialize()
    # Only forms need these, and nobody fills in any.
    hass.config.components.update({"http", "file_upload"})
    entry = config_entries.ConfigEntry(
        domain="mqtt",
        title="mqtt",
        data={"broker": "127.0.0.1", "port": port, "protocol": "5"},
        options={},
        source="user",
        unique_id=None,
        version=1,
        minor_version=2,
        discovery_keys={},
        subentries_data=(),
    )
    hass.set_state(core.CoreState.running)
    for domain, settings in (("mqtt", {}), ("automation", {"automation": [automation]})):
        if domain == "automation":
            await hass.config_entries.async_add(entry)
        if not await async_setup_component(hass, domain, settings):
            raise SystemExit(f"{domain} does not start: {complaints.texts}")
    if entry.state is not config_entries.ConfigEntryState.LOADED:
        raise SystemExit(f"mqtt does not start: {complaints.texts}")
    # What the automation of the page asks for.
    hass.services.async_register("light", "turn_on", lambda _: None)
    hass.bus.async_fire(EVENT_HOMEASSISTANT_STARTED)
    print("ready", flush=True)
    while await asyncio.to_thread(sys.stdin.readline):
        await hass.async_block_till_done()
        states = {
            state.entity_id: {"state": state.state, "attributes": dict(state.attributes)}
            for state in hass.states.async_all()
        }
        print(json.dumps({"states": states, "complaints": complaints.texts}, default=str), flush=True)
        complaints.texts.clear()
    await hass.async_stop(force=True)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "configuration.yaml").touch()
        asyncio.run(serve(int(sys.argv[1]), json.loads(sys.argv[2]), folder))
