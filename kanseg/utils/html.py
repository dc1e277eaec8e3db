"""Render HTML pages from Jinja2 templates. A page is a single file with its images and styles."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

TEMPLATES = Path(__file__).parent / "templates"  # base.html, which every page extends


def render_page(template: Path, **values: Any) -> str:
    """Render a template that extends `base.html`. All values are escaped.

    Args:
        template: path of the template. Templates that it extends or imports are looked up in its
            folder and in `TEMPLATES`.
        values: the variables of the template; a missing one raises `UndefinedError`.
    """
    environment = Environment(
        loader=FileSystemLoader([template.parent, TEMPLATES]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["anchor"] = anchor
    return environment.get_template(template.name).render(values)


def anchor(title: str) -> str:
    """The id of a heading, for links to it: `Scores of val` -> `scores-of-val`."""
    return "".join(letter if letter.isalnum() else "-" for letter in title.lower())


def image_url(content: bytes, kind: str) -> str:
    """A `data:` URL that holds an encoded image; `kind` is "png" or "jpeg"."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
