"""Names in YAML as they were written: `classes: [background, no, 010]` are three words of text."""

from __future__ import annotations

from collections.abc import Iterator

import yaml

# Settings that are lists of names: of a data set, of a config, of an arm of a comparison.
NAMES = ("classes", "train", "val", "test")
INNER = {f"data.{name}" for name in NAMES}
PLACES = {*NAMES, *INNER}
TEXT = "tag:yaml.org,2002:str"


def keep_names(root: yaml.Node) -> None:
    """Make text of the plain words in lists of names, so that `no`, `~`, `null`, `1e3`, `010` and
    `2001-01-01` stay what the user wrote.
    """
    for words in _lists(root):
        for word in _plain_words(words):
            word.tag = TEXT


def quoted_list(text: str) -> str:
    """A list of names on the command line, `[no, yes]`, with its plain words in quotes; what is no
    such list is returned as it is.
    """
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError, ValueError):
        return text  # whoever loads it says what is wrong
    for word in reversed(_plain_words(root)):
        start, end = word.start_mark.index, word.end_mark.index
        if text[start] not in "&!*":  # anchors and tags are left to YAML
            quoted = word.value.replace("'", "''")
            text = f"{text[:start]}'{quoted}'{text[end:]}"
    return text


def _plain_words(node: yaml.Node | None) -> list[yaml.ScalarNode]:
    """The entries of a list that are neither quoted, empty, nor lists themselves."""
    if not isinstance(node, yaml.SequenceNode):
        return []
    words = [entry for entry in node.value if isinstance(entry, yaml.ScalarNode)]
    return [word for word in words if word.style is None and word.value]


def _lists(root: yaml.Node) -> Iterator[yaml.Node]:
    """The values of the settings that are lists of names: `classes`, `data.classes`, and the same
    of an arm, `wide.data.classes`.
    """
    level = [("", root)]
    for _ in range(3):
        below = []
        for place, node in level:
            for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
                here = f"{place}.{key.value}" if place else str(key.value)
                below.append((here, value))
        for place, node in below:
            if place in PLACES or place.partition(".")[2] in INNER:
                yield node
        level = below
