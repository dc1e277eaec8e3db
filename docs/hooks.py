"""Hooks of mkdocs for pages of the repository that lie outside of docs/, such as data/README.md.

A page of docs/ that is nothing but a link to such a file becomes a copy of it. Links to these files
lead to the copies, and links to all other files outside of docs/ become plain text.
"""

import posixpath
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"\[([^\]]*)\]\((?!https?:)([^)#]*)(#[^)]*)?\)")


def find_copies() -> dict[str, str]:
    """Return file of the repository -> page of docs/ that is a copy of it."""
    copies = {}
    for page in (ROOT / "docs").glob("*.md"):
        link = LINK.fullmatch(page.read_text(encoding="utf-8").strip())
        if link is not None:
            copies[link[1]] = f"docs/{page.name}"
    return copies


COPIES = find_copies()


def on_page_markdown(markdown, page, **_):
    """Copy the file that the page stands for, and point the links to the pages of the site."""
    path = f"docs/{page.file.src_uri}"
    folder = posixpath.dirname(path)
    for source, copy in COPIES.items():
        if copy == path:
            folder = posixpath.dirname(source)
            markdown = (ROOT / source).read_text(encoding="utf-8")

    def site_link(link: re.Match) -> str:
        text, target, anchor = link[1], link[2], link[3] or ""
        if not target:
            return link[0]
        target = posixpath.normpath(posixpath.join(folder, target))
        target = COPIES.get(target, target)
        if not target.startswith("docs/"):
            return text
        return f"[{text}]({posixpath.relpath(target, posixpath.dirname(path))}{anchor})"

    return LINK.sub(site_link, markdown)
