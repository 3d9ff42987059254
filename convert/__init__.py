"""From published network weights to the model bundles the kiosk runs (`kiosk-convert`). Needs the `convert` extra."""
