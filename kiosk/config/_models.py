"""The sections of the configuration: frozen, strict, every field with its meaning, unit, bounds and default."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Annotated, Literal
from zoneinfo import ZoneInfo, available_timezones

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)
from pydantic_core import PydanticCustomError

from kiosk.schedule import Window, find_overlaps, parse_clock, parse_days
from kiosk.signs import Output, OutputPin, Pattern, Plan, RelayTerms, Sign


def _single_line(text: str) -> str:
    if not text.isprintable():
        raise ValueError("must not hold control characters")
    return text


def _path(value: object) -> object:
    """Strict models take a Path only as a Path; a file and the environment have text."""
    return Path(_single_line(value)) if isinstance(value, str) and value else value


def _known_timezone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (LookupError, ValueError, OSError):
        close = difflib.get_close_matches(name, available_timezones(), n=1)
        hint = f'did you mean "{close[0]}"?' if close else "write it like Europe/Berlin"
        raise ValueError(f"unknown time zone; {hint}") from None
    return name


def _no_bool(value: object) -> object:
    """To a Literal of numbers False is 0."""
    if isinstance(value, bool):
        raise PydanticCustomError("literal_error", "not a number")
    return value


def _tuple(value: object) -> object:
    """A file has lists; a frozen section has none."""
    return tuple(value) if isinstance(value, list) else value


def _days(text: str) -> str:
    try:
        parse_days(text)
    except ValueError:
        raise PydanticCustomError("days", "no days") from None
    return text


def _pattern(text: str) -> str:
    Pattern.parse(text)
    return text


def _single_time(value: object) -> object:
    """A pattern of one time looks like a number."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


_RELAY_EVENTS = ("check_in", "check_out", "break_start", "break_end")


def _event_types(text: str) -> str:
    if not set(_split(text)) <= set(_RELAY_EVENTS):
        raise PydanticCustomError("event_types", "no event types")
    return text


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


class ListError(ValueError):
    """What is wrong with entries of a list: their places, from 0, and what to say of each."""

    def __init__(self, problems: list[tuple[int, str]]) -> None:
        super().__init__("; ".join(text for _, text in problems))
        self.problems = problems


_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_STREAMS = ("rtsp", "rtsps", "http", "https")


Text = Annotated[str, Field(min_length=1, max_length=512), AfterValidator(_single_line)]
FilePath = Annotated[Path, BeforeValidator(_path), WithJsonSchema({"type": "string", "format": "path"})]
Name = Annotated[
    str,
    Field(pattern=r"^[A-Za-z0-9._-]{1,64}$"),
    WithJsonSchema({"type": "string", "wanted": "1 to 64 letters, digits, dots, underscores or hyphens"}),
]
Timezone = Annotated[
    str, AfterValidator(_known_timezone), WithJsonSchema({"type": "string", "wanted": "a time zone's IANA name"})
]
Host = Annotated[
    str,
    Field(pattern=r"^[^\s/@]{1,253}$"),
    AfterValidator(_single_line),
    WithJsonSchema({"type": "string", "wanted": "a host name or IP address"}),
]
TopicRoot = Annotated[
    str,
    Field(pattern=r"^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*$", max_length=128),
    WithJsonSchema({"type": "string", "wanted": "MQTT topic levels separated by / (letters, digits, . _ -)"}),
]
Rotation = Annotated[Literal[0, 90, 180, 270], BeforeValidator(_no_bool)]
Days = Annotated[
    str,
    Field(max_length=64),
    AfterValidator(_days),
    WithJsonSchema({"type": "string", "wanted": "days like mon-fri or sat,sun (mon tue wed thu fri sat sun)"}),
]


PatternText = Annotated[
    str,
    Field(max_length=128),
    BeforeValidator(_single_time),
    AfterValidator(_pattern),
    WithJsonSchema({"type": "string", "wanted": "a pattern like 150 100 x3"}),
]
EventTypes = Annotated[
    str,
    Field(max_length=128),
    AfterValidator(_event_types),
    WithJsonSchema({"type": "string", "wanted": f"one or more of {', '.join(_RELAY_EVENTS)}, with commas"}),
]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class DeviceSection(Section):
    """Which kiosk this is."""

    site: Name = Field(default="hq", description="Site, a level of every MQTT topic.")
    id: Name = Field(default="door-1", description="This kiosk, unique within its site; a level of every MQTT topic.")
    timezone: Timezone = Field(default="UTC", description="Time zone told with every event and used for printed times.")


class Picamera2Section(Section):
    """How a camera of the Raspberry Pi is set (docs/camera.md); for the source `picamera2` only."""

    focus: Literal["auto"] | Annotated[float, Field(ge=0.05, le=1000)] = Field(
        default="auto",
        description="`auto`: the lens, where it can be moved, follows what is before it; a number: it stays focused on "
        "this distance, metres.",
    )
    exposure: Literal["normal", "short", "long"] = Field(
        default="normal",
        description="What the automatic exposure prefers: `short` for people who walk (noisier in the dark), `long` "
        "for less noise.",
    )
    ev: float = Field(
        default=0.0,
        ge=-8,
        le=8,
        description="Brighter (above 0) or darker than the automatic exposure would have it, stops; about 1 where "
        "people stand before a bright door.",
    )
    longest_exposure_ms: Annotated[float, Field(ge=1, le=1000)] | None = Field(
        default=None,
        description="In the dark one picture may take so long, milliseconds: fewer pictures a second, and who walks is "
        "blurred; null: no longer than `fps` allows.",
    )


class CameraSection(Section):
    """Where pictures come from."""

    source: Annotated[int, Field(ge=0, le=255)] | Text = Field(
        default=0,
        description="Camera index, `/dev/videoN`, `picamera2` (`picamera2:1`: the second), `rtsp://…`, `http://…` "
        "(MJPEG), a video file, or a folder of images (docs/camera.md).",
        repr=False,
    )
    width: int = Field(
        default=1280, ge=16, le=7680, description="Picture width asked of a USB camera or picamera2, pixels."
    )
    height: int = Field(
        default=720, ge=16, le=4320, description="Picture height asked of a USB camera or picamera2, pixels."
    )
    fps: int = Field(
        default=15,
        ge=1,
        le=240,
        description="Frames per second asked of a USB camera or picamera2, and at which a folder is played.",
    )
    rotate: Rotation = Field(default=0, description="Turn every picture clockwise, degrees.")
    loop: bool = Field(default=False, description="Play a file or folder again and again.")
    pace: Literal["realtime", "fast"] = Field(
        default="realtime",
        description="Files and folders: as fast as they were recorded, or every frame without waiting.",
    )
    open_timeout_s: float = Field(default=5.0, ge=0.1, le=60, description="Longest wait for a camera to open, seconds.")
    read_timeout_s: float = Field(
        default=3.0, ge=0.1, le=60, description="Without a picture for so long a camera counts as failed, seconds."
    )
    frozen_after_s: float = Field(
        default=4.0,
        ge=0,
        le=3600,
        description="A live picture that stays exactly the same for longer is frozen, and recognized no more, seconds; "
        "0: never. Longer for a network camera whose key frames are further apart than that.",
    )
    picamera2: Picamera2Section = Field(
        default=Picamera2Section(), description="Section: focus and exposure of a camera of the Raspberry Pi."
    )

    @field_validator("source")
    @classmethod
    def _can_be_meant(cls, source: int | str) -> int | str:
        """A camera that is away may come; one that no kiosk knows will not."""
        text = str(source)
        scheme = _SCHEME.match(text)
        if scheme is not None and scheme[1].lower() not in _STREAMS:
            raise ValueError(f"{scheme[1]}:// is not supported; use rtsp:// or http:// (MJPEG)")
        if text.startswith("picamera2:") and not text.removeprefix("picamera2:").isdecimal():
            raise ValueError("use picamera2, or picamera2:1 for the second camera")
        return source


class FaceSection(Section):
    """Which faces are found, and which are good enough."""

    detector: Literal["blazeface", "haar"] = Field(
        default="blazeface", description="`haar` is the classic cascade, for comparison: slower, and finds fewer faces."
    )
    min_score: float = Field(
        default=0.5, ge=0.1, le=0.99, description="BlazeFace's own confidence from which a face counts."
    )
    min_eye_distance_px: Literal["auto"] | Annotated[float, Field(ge=0, le=4096)] = Field(
        default="auto",
        description="Pixels between the eyes a face needs; `auto`: as measured (docs/recognition.md), more at "
        "enrollment than at the door; a number holds for both, 0 turns the limit off.",
    )
    min_sharpness: Literal["auto"] | Annotated[float, Field(ge=0, le=100)] = Field(
        default="auto",
        description="Sharpness a face needs, as `kiosk identify --json` tells it; `auto` and numbers as above.",
    )
    min_size_px: int = Field(
        default=0,
        ge=0,
        le=4096,
        description="Shorter side of the smallest face box recognized, pixels; counts beside the eyes' distance.",
    )


class ModelSection(Section):
    """Which network turns a face into an embedding."""

    bundle: Text = Field(
        default="auto", description="Name or folder of a model bundle; `auto` is the most accurate one installed."
    )
    threads: int = Field(default=2, ge=1, le=64, description="CPU threads of the network.")
    runtime: Literal["auto", "litert", "tflite-runtime"] = Field(
        default="auto", description="TFLite interpreter to use."
    )


class MatchSection(Section):
    """When a face is somebody."""

    threshold: Literal["auto"] | Annotated[float, Field(ge=-1, le=1)] = Field(
        default="auto",
        description="Score (cosine similarity) needed; `auto` follows from `fpir`, the bundle and the gallery's size.",
    )
    margin: float = Field(
        default=0.05, ge=0, le=2, description="Lead the best subject needs over the next one, on FaceNet's score scale."
    )
    frames: int = Field(
        default=3,
        ge=1,
        le=100,
        description="Frames of the same face that decide together; two do when the score is one that ten times fewer "
        "strangers reach than `fpir` allows (automatic thresholds only).",
    )
    window_s: float = Field(
        default=2.0,
        gt=0,
        le=60,
        description="A face that is nobody's for so long is told so, and looked at only twice a second from then on; "
        "seconds.",
    )
    refractory_s: float = Field(
        default=60.0, ge=0, le=86_400, description="Silence after a check-in by the same subject, seconds."
    )
    fpir: float = Field(
        default=0.001,
        ge=1e-6,
        le=0.5,
        description="Share of searches by strangers that may name somebody (false positive identification rate).",
    )


class PadSection(Section):
    """Presentation attack detection (docs/pad.md), by a bundle that `kiosk-convert build pad` makes."""

    enabled: bool = Field(
        default=True,
        description="Refuse photos and screens held up to the camera, where a pad bundle is installed in `models/` "
        "beside the store; `kiosk check` tells whether there is one.",
    )
    threshold: Literal["auto"] | Annotated[float, Field(ge=0, le=1)] = Field(
        default="auto", description="Score from which a face counts as live; `auto` is the bundle's own."
    )


class IdleSection(Section):
    """Less work while nobody is there (docs/idle.md)."""

    enabled: bool = Field(
        default=True,
        description="While nobody is there and nothing moves, look at few pictures of a live camera; false: always at "
        "all of them.",
    )
    after_s: float = Field(
        default=5.0,
        ge=1,
        le=3600,
        description="How long no face was seen and nothing moved before that begins, seconds.",
    )


class CodeSection(Section):
    """The second way in, for who is not to be recognized by the face (docs/second-way.md); off by default."""

    reader: FilePath | None = Field(
        default=None,
        description="Device that gives codes as lines: a serial card or QR reader (`/dev/ttyACM0`), a keypad's "
        "terminal; null: none.",
    )
    camera: bool = Field(
        default=False, description="Also read badges of `kiosk subjects code --qr` in the camera's pictures."
    )


class WindowSection(Section):
    """A time of day at which it is settled what a recognized person does."""

    model_config = ConfigDict(serialize_by_alias=True)

    days: Days = Field(
        default="mon-sun", description="Days on which the window opens: a list in quotes, ranges with a hyphen."
    )
    start: Annotated[
        str,
        Field(pattern=r"^([01]\d|2[0-3]):[0-5]\d$"),
        WithJsonSchema({"type": "string", "wanted": "a time of day from 00:00 to 23:59"}),
    ] = Field(alias="from", description="From then on, by the site's clock (`device.timezone`); in quotes.")
    end: Annotated[
        str,
        Field(pattern=r"^(([01]\d|2[0-3]):[0-5]\d|24:00)$"),
        WithJsonSchema({"type": "string", "wanted": "a time of day from 00:00 to 24:00"}),
    ] = Field(alias="to", description="Until then, that minute not included; before `from`: on the next day.")
    event: Literal["check_in", "check_out", "break"] = Field(
        description="What a visit is; `break`: `break_start` and `break_end` in turns, for each subject on its own."
    )

    @field_validator("end")
    @classmethod
    def _not_empty(cls, end: str, info: ValidationInfo) -> str:
        if end == info.data.get("start"):
            raise ValueError('is the same as from; a whole day is from "00:00" to "24:00"')
        return end

    def window(self) -> Window:
        return Window(parse_days(self.days), parse_clock(self.start), parse_clock(self.end), self.event)


_MAX_WINDOWS = 50


class AttendanceSection(Section):
    """What a recognized person does (docs/attendance.md)."""

    mode: Literal["check_in", "check_out", "alternate", "schedule"] = Field(
        default="check_in",
        description="Type of the events; `alternate`: in and out in turns, for each subject on its own; `schedule`: by "
        "the time of day.",
    )
    schedule: Annotated[tuple[WindowSection, ...], BeforeValidator(_tuple)] = Field(
        default=(),
        max_length=_MAX_WINDOWS,
        validate_default=True,
        description="Windows for mode `schedule`, which must not overlap; each has the fields below.",
        json_schema_extra={"wanted": f"a list of up to {_MAX_WINDOWS} windows"},
    )
    outside: Literal["check_in", "check_out", "alternate"] = Field(
        default="alternate", description="With mode `schedule`: what a visit is outside every window."
    )

    @field_validator("schedule")
    @classmethod
    def _one_window_at_a_time(cls, schedule: tuple[WindowSection, ...], info: ValidationInfo) -> object:
        mode = info.data.get("mode")
        if mode == "schedule" and not schedule:
            raise ValueError(
                "is needed with mode schedule: windows like "
                '{days: mon-fri, from: "06:00", to: "10:00", event: check_in}'
            )
        if mode not in {"schedule", None} and schedule:
            raise ValueError(f"has windows, but attendance.mode is {mode}: set it to schedule, or delete the windows")
        windows = [section.window() for section in schedule]
        problems = [
            (
                found.second,
                f"overlaps window {found.first + 1} ({windows[found.first].describe()}) on {found.describe()}",
            )
            for found in find_overlaps(windows)
        ]
        if problems:
            raise ListError(problems)
        return schedule


class BackupsSection(Section):
    """Verified copies of the store in `backups/` beside it; a damaged store is restored from them at the next start."""

    every_h: int = Field(
        default=24, ge=1, le=8760, description="Hours between two; a changed gallery is copied within two minutes."
    )
    keep: int = Field(
        default=7,
        ge=0,
        le=1000,
        description="How many to keep, the oldest go first; 0: take none. They hold personal data as the store does; "
        "`kiosk subjects remove` replaces them all by a fresh one.",
    )


class StoreSection(Section):
    """Where people and events are kept."""

    path: FilePath = Field(
        default=Path("/var/lib/kiosk/kiosk.db"),
        description="SQLite file; installed model bundles live in `models/` beside it.",
    )
    key_file: FilePath | None = Field(
        default=None,
        description="The key that templates are encrypted with; null: the store's name with `.key`, beside it, made "
        "with the first template.",
    )
    master_key_file: FilePath | None = Field(
        default=None,
        description="File of at least 32 random bytes that the key file is sealed with; null: the service's credential "
        "`store-key`, if it has one, or nothing.",
    )
    retention_days: int = Field(
        default=365, ge=1, le=36_500, description="Sent events are deleted after so long, days; unsent ones never."
    )
    rejected_days: int = Field(
        default=7,
        ge=0,
        le=365,
        description="Decisions without a check-in are kept for `kiosk why` so long, days, the newest 10,000; 0: never. "
        "Scores and measures only, no pictures.",
    )
    backups: BackupsSection = Field(
        default=BackupsSection(), description="Section: verified copies of the store in `backups/` beside it."
    )
    min_free_mib: int = Field(
        default=16,
        ge=0,
        le=1_000_000,
        description="Check-ins are refused, and people told so, when less than this is free on the store's disk, MiB: "
        "room for sending and housekeeping.",
    )
    max_unsent: int = Field(
        default=100_000,
        ge=1,
        le=10_000_000,
        description="Check-ins are refused when so many events wait to be sent, with a warning from 80 % on; "
        "waiting events are never dropped.",
    )
    snapshots: Literal["none"] = Field(default="none", description="Pictures kept with events: none, in this version.")


_UNSEEN_MARGIN_DAYS = 14
"""At either end of the events that are kept up to a week does not count (``kiosk.store._due``)."""


class PrivacySection(Section):
    """On what enrollment rests, and when people are due to be erased; more in docs/audit.md."""

    require_consent: bool = Field(
        default=False, description="Refuse to enroll anybody without a consent that is on record and has not ended."
    )
    unseen_days: int | None = Field(
        default=None,
        ge=1,
        le=36_500,
        description="Who was not seen on so many days, on which the kiosk saw others, is due to be erased by "
        "`kiosk subjects remove --due`; null: nobody is. At least 14 less than `store.retention_days`: only the events "
        "that are kept can tell.",
    )


class TlsSection(Section):
    """A TLS connection to the broker. `tls: {}` uses the system's certificate authorities."""

    ca_file: FilePath | None = Field(
        default=None, description="Certificate authorities (PEM), instead of the system's."
    )
    cert_file: FilePath | None = Field(default=None, description="Client certificate (PEM); needs `key_file`.")
    key_file: FilePath | None = Field(
        default=None, description="Private key (PEM) of the client certificate.", validate_default=True
    )

    @field_validator("key_file")
    @classmethod
    def _certificate_with_key(cls, key_file: Path | None, info: ValidationInfo) -> Path | None:
        # A cert_file that is wrong itself is not among the data and already complained of.
        cert_file = info.data.get("cert_file", key_file)
        if (cert_file is None) != (key_file is None):
            raise ValueError("is needed with cert_file" if key_file is None else "needs cert_file")
        return key_file


class WebTlsSection(Section):
    """Certificate and key of the administration page."""

    cert_file: FilePath | None = Field(default=None, description="Certificate (PEM), with the intermediate ones.")
    key_file: FilePath | None = Field(default=None, description="Its private key (PEM), readable by the kiosk only.")


class WebSection(Section):
    """The administration page (docs/web.md)."""

    enabled: bool = Field(
        default=False, description="Serve the page while the kiosk runs; `kiosk web` serves it by itself."
    )
    host: Host = Field(
        default="127.0.0.1",
        description="Address it is served at: this machine's own, which only this machine can open, or another one of "
        "its addresses (`0.0.0.0`: all), which needs a password and TLS.",
    )
    port: int = Field(default=8321, ge=1, le=65_535, description="TCP port.")
    password_file: FilePath | None = Field(
        default=None,
        description="File whose content is the password of the page, 10 characters or more; null: the service's "
        "credential `web-password`, if it has one, or none.",
    )
    tls: WebTlsSection | None = Field(default=None, description="Section with certificate and key; null: no TLS.")
    metrics: bool = Field(
        default=False,
        description="Serve `/metrics` for Prometheus (docs/health.md), without the password: numbers about the kiosk, "
        "nothing about people.",
    )
    allow_plaintext: bool = Field(
        default=False,
        description="Let other machines open it without TLS: everybody on the way can then read the password and what "
        "the camera sees.",
    )


class MqttSection(Section):
    """Where events are sent."""

    enabled: bool = Field(
        default=True,
        description="Send events at all; `false`: they are only kept, never sent later (a gap in `seq`).",
    )
    host: Host = Field(default="localhost", description="Broker (MQTT 5).")
    port: int = Field(default=1883, ge=1, le=65_535, description="TCP port; brokers use 8883 for TLS.")
    tls: TlsSection | None = Field(
        default=None, description="Section with the TLS files; null: no TLS, for a broker on this machine."
    )
    allow_plaintext: bool = Field(
        default=False,
        description="Let a broker on another machine be reached without TLS: everybody on the way can then read who "
        "comes and goes, and the password, and change both.",
    )
    username: Text | None = Field(default=None, description="Login; null: none.", repr=False)
    password_file: FilePath | None = Field(
        default=None,
        description="File whose content is the password, readable by the kiosk only; null: the service's credential "
        "`mqtt-password`, if it has one. Needs `username`.",
    )
    sign_key_file: FilePath | None = Field(
        default=None,
        description="File with an Ed25519 private key (PEM) that events are signed with (docs/signatures.md); null: "
        "the service's credential `event-signing-key`, if it has one, or else no signatures.",
    )
    topic_root: TopicRoot = Field(default="kiosk/v1", description="First levels of every topic.")
    home_assistant: bool = Field(default=True, description="Publish the Home Assistant discovery document.")
    rejected_events: bool = Field(
        default=False, description="Also publish faces and codes that led to no check-in (no subject told)."
    )
    include_names: bool = Field(default=False, description="Let names leave the device with the events.")

    @field_validator("password_file")
    @classmethod
    def _password_with_username(cls, password_file: Path | None, info: ValidationInfo) -> Path | None:
        if password_file is not None and info.data.get("username", "") is None:
            raise ValueError("needs username")
        return password_file


PinNumber = Annotated[int, Field(ge=2, le=27)]


class FeedbackPinsSection(Section):
    """Which pin each output hangs on: BCM numbers, as in GPIO17."""

    accepted: PinNumber | None = Field(default=None, description="Green light; null: none, as for all of them.")
    refused: PinNumber | None = Field(default=None, description="Red light.")
    wait: PinNumber | None = Field(default=None, description="Yellow or blue light: a face is seen and being decided.")
    fault: PinNumber | None = Field(
        default=None, description="Light for a fault of the kiosk itself; null: the red one tells it."
    )
    buzzer: PinNumber | None = Field(default=None, description="Active buzzer, which sounds by itself while it is on.")
    relay: PinNumber | None = Field(default=None, description="Relay of a door opener.")

    @field_validator("refused", "wait", "fault", "buzzer", "relay")
    @classmethod
    def _one_output_a_pin(cls, pin: int | None, info: ValidationInfo) -> int | None:
        taken = next((name for name, other in info.data.items() if other is not None and other == pin), None)
        if taken is not None:
            raise ValueError(f"is {pin}, as {taken} is; each output needs a pin of its own")
        return pin


class FeedbackActiveLowSection(Section):
    """Outputs that are on while their pin is at 0 V, as many relay boards are."""

    accepted: bool = Field(default=False, description="On while the pin is at 0 V, instead of 3.3 V.")
    refused: bool = Field(default=False, description="The same.")
    wait: bool = Field(default=False, description="The same.")
    fault: bool = Field(default=False, description="The same.")
    buzzer: bool = Field(default=False, description="The same.")
    relay: bool = Field(default=False, description="The same; docs/feedback.md says which pins suit such a board.")


class FeedbackLightSection(Section):
    """Rhythms of the lights: milliseconds on and off in turns, and how often (`150 100 x3`)."""

    accepted: PatternText = Field(default="2000", description="Green: the check-in is stored.")
    repeat: PatternText = Field(
        default="300 300 x2", description="Green: it was stored already, within `match.refractory_s`."
    )
    refused: PatternText = Field(default="200 200 x4", description="Red: turned away, or the store takes nothing.")
    wait: PatternText = Field(default="100 900", description="As long as a face is being decided, over and over.")
    fault: PatternText = Field(
        default="500 2500", description="As long as the camera, the code reader or the store does not work."
    )


class FeedbackSoundSection(Section):
    """Rhythms of the buzzer, as those of the lights; null: silent."""

    accepted: PatternText | None = Field(default="150", description="With the light.")
    repeat: PatternText | None = Field(default="80 120 x2", description="With the light.")
    refused: PatternText | None = Field(
        default="600 200 x2",
        description="With the light, but not for a face that was only blurred, turned or in the dark.",
    )
    wait: PatternText | None = Field(default=None, description="With the light.")
    fault: PatternText | None = Field(default=None, description="With the light, all night long.")


class FeedbackRelaySection(Section):
    """When and how the relay moves (docs/feedback.md: its safety)."""

    pulse_s: float = Field(default=3.0, ge=0.1, le=60, description="How long it is driven after a check-in, seconds.")
    rests_on: bool = Field(
        default=False,
        description="Driven all the time and let go for the pulse: for a lock that has to open when the kiosk fails "
        "(fail-safe).",
    )
    events: EventTypes = Field(default="check_in", description="Types of events that move it, with commas.")
    by_code: bool = Field(default=False, description="Also for who came by PIN or badge.")
    without_pad: bool = Field(
        default=False,
        description="Also where no pad bundle tells a face from a picture of one: A PHOTO THEN OPENS THE DOOR.",
    )


class FeedbackSection(Section):
    """Lights, a buzzer and a relay at the door, on GPIO pins (docs/feedback.md); off until a pin is set."""

    pins: FeedbackPinsSection = Field(
        default=FeedbackPinsSection(), description="Section: which pin each output hangs on."
    )
    active_low: FeedbackActiveLowSection = Field(
        default=FeedbackActiveLowSection(), description="Section: outputs that are on at 0 V."
    )
    light: FeedbackLightSection = Field(default=FeedbackLightSection(), description="Section: rhythms of the lights.")
    sound: FeedbackSoundSection = Field(default=FeedbackSoundSection(), description="Section: rhythms of the buzzer.")
    relay: FeedbackRelaySection = Field(
        default=FeedbackRelaySection(), description="Section: when and how the relay moves."
    )

    def plan(self) -> Plan | None:
        """What there is to show, and on which pins; None: nothing."""
        numbers: dict[str, int | None] = dict(self.pins)
        low: dict[str, bool] = dict(self.active_low)
        pins = {
            output: OutputPin(number, low[output], rests_on=output is Output.RELAY and self.relay.rests_on)
            for output in Output
            if (number := numbers[output]) is not None
        }
        if not pins:
            return None
        sounds: dict[str, str | None] = dict(self.sound)
        return Plan(
            pins,
            {sign: Pattern.parse(getattr(self.light, sign)) for sign in Sign},
            {sign: Pattern.parse(text) for sign in Sign if (text := sounds[sign]) is not None},
            RelayTerms(
                self.relay.pulse_s,
                frozenset(_split(self.relay.events)),
                by_code=self.relay.by_code,
                without_pad=self.relay.without_pad,
            ),
        )


class Config(Section):
    """The whole configuration; every section may be left out."""

    device: DeviceSection = DeviceSection()
    camera: CameraSection = CameraSection()
    idle: IdleSection = IdleSection()
    face: FaceSection = FaceSection()
    model: ModelSection = ModelSection()
    match: MatchSection = MatchSection()
    pad: PadSection = PadSection()
    code: CodeSection = CodeSection()
    attendance: AttendanceSection = AttendanceSection()
    store: StoreSection = StoreSection()
    privacy: PrivacySection = PrivacySection()
    mqtt: MqttSection = MqttSection()
    web: WebSection = WebSection()
    feedback: FeedbackSection = FeedbackSection()

    @field_validator("privacy")
    @classmethod
    def _events_kept_longer(cls, privacy: PrivacySection, info: ValidationInfo) -> PrivacySection:
        store = info.data.get("store")
        if store is None or privacy.unseen_days is None:
            return privacy
        if privacy.unseen_days > store.retention_days - _UNSEEN_MARGIN_DAYS:
            raise ValueError(
                f"unseen_days ({privacy.unseen_days}) must be at least {_UNSEEN_MARGIN_DAYS} less than "
                f"store.retention_days ({store.retention_days}): days are counted over the events that are kept, and "
                "nobody would ever be due"
            )
        return privacy
