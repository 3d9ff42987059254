"""The administration page: ``kiosk web`` serves it, in a process of its own beside the daemon."""
