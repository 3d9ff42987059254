"""Every error a user can meet. Each class carries the process exit code (sysexits.h numbering)."""


class KioskError(Exception):
    """A failure told to the user in one line: what, where, how to mend it."""

    exit_code = 1


class UsageError(KioskError):
    """The command line cannot be understood."""

    exit_code = 64


class InputError(KioskError):
    """Bad input: an unreadable image, no face, two faces where one is needed, a duplicate face."""

    exit_code = 65


class InputPermissionError(InputError):
    """Input that this user may not read."""

    exit_code = 77


class UnavailableError(KioskError):
    """A broker, camera, model or daemon that is needed does not answer."""

    exit_code = 69


class CameraError(UnavailableError):
    """The camera cannot be opened or has stopped delivering."""


class ModelError(UnavailableError):
    """A model bundle is missing, damaged or not the one its manifest describes."""


class GpioError(UnavailableError):
    """Lights, buzzer or relay cannot be driven: no pins, no library, or somebody else has them."""


class BrokerError(UnavailableError):
    """The MQTT broker cannot be reached or refuses the kiosk."""


class StoreError(KioskError):
    """The store cannot be created or written."""

    exit_code = 73


class OutputError(KioskError):
    """A result file cannot be written."""

    exit_code = 74


class PermissionDeniedError(KioskError):
    """The operating system refuses access."""

    exit_code = 77


class ConfigError(KioskError):
    """The configuration is wrong; the message lists every problem, one a line."""

    exit_code = 78


class ConfigPermissionError(ConfigError):
    """The configuration, or a file that it names, may not be read by this user."""

    exit_code = 77


class KeyFileError(KioskError):
    """The key of the templates is missing, damaged or sealed with something else: templates cannot be read."""

    exit_code = 78


class KeyPermissionError(KeyFileError):
    """The key of the templates may not be read by this user."""

    exit_code = 77
