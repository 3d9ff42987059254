"""The subcommands, one module each; every module's ``command`` object is what ``kiosk.cli`` loads."""
