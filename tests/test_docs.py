"""The documents say what the code says: commands, configuration fields, links, the README's two commands."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from pydantic import BaseModel

from convert.cli import cli as kiosk_convert
from kiosk.cli import cli as kiosk
from kiosk.config import Config

REPO = Path(__file__).resolve().parent.parent
PAGES = sorted([*REPO.glob("*.md"), *REPO.glob("docs/**/*.md"), *REPO.glob("systemd/*.md")])


def leaves(group: click.Group, path: str) -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield f"{path} {name}", command
        if isinstance(command, click.Group):
            yield from leaves(command, f"{path} {name}")


COMMANDS = [*leaves(kiosk, "kiosk"), *leaves(kiosk_convert, "kiosk-convert")]


@pytest.mark.parametrize(("path", "command"), COMMANDS, ids=[path for path, _ in COMMANDS])
def test_every_command_is_on_the_commands_page(path: str, command: click.Command) -> None:
    page = (REPO / "docs" / "cli.md").read_text(encoding="utf-8")
    assert f"`{path}`\n" in page
    section = page.split(f"`{path}`\n")[1].split("\n#")[0]
    assert command.help
    assert [
        option
        for parameter in command.params
        for option in parameter.opts
        if isinstance(parameter, click.Option) and option not in section
    ] == []


def fields(model: type[BaseModel], path: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from fields(kind, f"{path}{name}.")
        else:
            yield f"{path}{name}"


@pytest.mark.parametrize("field", list(fields(Config)))
def test_every_field_is_on_the_configuration_page(field: str) -> None:
    assert field in (REPO / "docs" / "configuration.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPO)))
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r"(?:src|href)=\"([^\"]+)\"", text)
    broken = []
    for link in links:
        target, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        file = (page.parent / target) if target else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(link)
    assert not broken


def anchors(page: Path) -> set[str]:
    """The anchors a Markdown page's headings get."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_quick_start_is_two_commands() -> None:
    readme = (REPO / "README.md").read_text(encoding="utf-8")
    section = readme.split("\n## Quick start\n")[1].split("\n## ")[0]
    blocks = re.findall(r"```\w*\n(.*?)```", section, flags=re.DOTALL)
    commands = [line.split("#")[0].strip() for line in blocks[0].splitlines() if line.split("#")[0].strip()]
    assert commands == ["./quickstart demo", "./quickstart test"]


def test_every_module_is_on_the_architecture_page() -> None:
    page = (REPO / "docs" / "architecture.md").read_text(encoding="utf-8")
    missing = []
    for package in ("kiosk", "convert"):
        for path in (REPO / package).iterdir():
            name = f"`{path.name}`" if path.suffix == ".py" else f"`{path.name}/`"
            is_package = path.name == "data" or (path / "__init__.py").exists()
            if (is_package or path.suffix == ".py") and not path.name.startswith("__") and name not in page:
                missing.append(str(path.relative_to(REPO)))
    assert not missing
