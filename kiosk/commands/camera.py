"""``kiosk camera``: which cameras there are, what the configured one sees, and how to mount it."""

from __future__ import annotations

from pathlib import Path

import click

from kiosk.commands.options import PATH, Number, common_options, json_option, load, print_json

_DEFAULT_SECONDS = 10.0


@click.group("camera")
def command() -> None:
    """See what the camera sees; list cameras; help to mount one."""


@command.command("list")
@json_option
def list_command(as_json: bool) -> None:
    """List the cameras of this machine, as camera.source names them.

    USB cameras, and those that picamera2 finds. Cameras on the network are not looked for.
    """
    from kiosk.camera import list_cameras

    found, problem = list_cameras()
    if as_json:
        cameras = [{"source": one.source, "name": one.name, "device": one.device} for one in found]
        print_json({"cameras": cameras, "problem": problem})
        return
    for one in found:
        click.echo(f"{one.source}  {one.name}{'' if one.device in {None, one.source} else f'  ({one.device})'}")
    if not found:
        click.echo("no camera found")
    if problem is not None:
        click.echo(f"note: {problem}", err=True)


@command.command("preview")
@click.option("--once", "out", type=PATH, required=True, metavar="OUT.jpg", help="The picture to write; .jpg or .png.")
@click.option("--boxes", is_flag=True, help="With a box around every face, and the pixels between its eyes.")
@common_options
def preview_command(out: Path, boxes: bool, config_path: Path | None, verbose: int) -> None:
    """Write what the camera sees at this moment into one picture, for its owner only to read.

    From the running kiosk where one runs, which goes on meanwhile. No other picture is stored.
    """
    from kiosk.commands.frames import open_frames, take_picture
    from kiosk.drawing import check_plot_path, draw_boxes, write_image
    from kiosk.pipeline import build_detector

    config = load(config_path, verbose)
    check_plot_path(out, "--once")
    with open_frames(config) as camera:
        image = take_picture(camera)
    if boxes:
        image = draw_boxes(image, build_detector(config).detect(image))
    write_image(out, image)
    height, width = image.shape[:2]
    click.echo(f"{out}: {width} x {height} pixels")


@command.command("advise")
@click.option(
    "--seconds",
    type=Number(min=1, max=86_400),
    help="End after so long. Default: with --json 10, else when Ctrl-C is pressed.",
)
@json_option
@common_options
def advise_command(seconds: float | None, as_json: bool, config_path: Path | None, verbose: int) -> None:
    """Help to mount the camera: what to change until people are recognized there.

    Have somebody stand where people will stand, looking straight ahead, and mend what is told from the top: rotation,
    aim, focus, light, size, angle. Without anybody the lens can be focused already. From the running kiosk's camera
    where one runs. Nothing is stored.
    """
    from kiosk.commands.camera_advice import advise

    advise(load(config_path, verbose), seconds=seconds or (_DEFAULT_SECONDS if as_json else None), as_json=as_json)
