"""Keep names in YAML as written: `classes: [background, no, 010]` are three strings."""

from __future__ import annotations

from collections.abc import Iterator

import yaml

# Settings that are lists of names: in a dataset.yaml, a config, or a variant of a comparison.
NAMES = ("classes", "train", "val", "test")
INNER = {f"data.{name}" for name in NAMES}
PLACES = {*NAMES, *INNER}
TEXT = "tag:yaml.org,2002:str"


def keep_names(root: yaml.Node) -> None:
    """Make the plain words in lists of names strings, so that `no`, `~`, `null`, `1e3`, `010` and
    `2001-01-01` stay as written.
    """
    for words in _lists(root):
        for word in _plain_words(words):
            word.tag = TEXT


def quoted_list(text: str) -> str:
    """Quote the plain words of a list on the command line: `[no, yes]` -> `['no', 'yes']`. Other
    text is returned unchanged.
    """
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError, ValueError):
        return text  # the loader reports what is wrong
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
    words = []
    for entry in node.value:
        if isinstance(entry, yaml.ScalarNode) and entry.style is None and entry.value:
            words.append(entry)
    return words


def _lists(root: yaml.Node) -> Iterator[yaml.Node]:
    """The values of the settings that are lists of names: `classes`, `data.classes`, and those of
    a variant, `wide.data.classes`.
    """
    level = [("", root)]
    for _ in range(3):
        below = []
        for path, node in level:
            if not isinstance(node, yaml.MappingNode):
                continue
            for key, value in node.value:
                name = f"{path}.{key.value}" if path else str(key.value)
                below.append((name, value))
        for path, node in below:
            if path in PLACES or path.partition(".")[2] in INNER:
                yield node
        level = below
