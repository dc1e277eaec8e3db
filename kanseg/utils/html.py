"""Render HTML pages from Jinja2 templates. A page is a single file with its images and styles."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from kanseg.utils.language import language, translate

TEMPLATES = Path(__file__).parent / "templates"  # base.html, which every page extends


class InlineImage(NamedTuple):
    """An image inside a page.

    Args:
        url: of `image_url`.
        width, height: in pixels of the page; a narrow window shrinks it.
        alt: text for those who do not see it.
    """

    url: str
    width: int
    height: int
    alt: str


def render_page(template: Path, **values: Any) -> str:
    """Render a template that extends `base.html`. All values are escaped.

    Templates call `translate` for texts in the language of the pages.

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
    environment.globals |= {"language": language(), "translate": translate}
    return environment.get_template(template.name).render(values)


def anchor(title: str) -> str:
    """The id of a heading, for links to it: `Scores of val` -> `scores-of-val`."""
    return "".join(letter if letter.isalnum() else "-" for letter in title.lower())


def png_url(content: bytes, *, max_size: int, quality: int = 88, shrink: int = 1) -> str:
    """A `data:` URL of a PNG file; a file of more than `max_size` bytes becomes a JPEG.

    Args:
        content: the PNG file.
        max_size: in bytes.
        quality: of the JPEG.
        shrink: factor by which the JPEG is smaller in height and width.
    """
    if len(content) <= max_size:
        return image_url(content, "png")
    with Image.open(io.BytesIO(content)) as image:
        return jpeg_url(image.convert("RGB").reduce(shrink), quality=quality)


def jpeg_url(image: Image.Image, *, quality: int = 88) -> str:
    """A `data:` URL of an RGB image as JPEG."""
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality, subsampling=0)
    return image_url(stream.getvalue(), "jpeg")


def image_url(content: bytes, kind: str) -> str:
    """A `data:` URL that holds an encoded image; `kind` is "png" or "jpeg"."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
