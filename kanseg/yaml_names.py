"""Names in YAML as they were written: `classes: [background, no, yes]` are no truth values."""

from __future__ import annotations

import yaml

# Settings that are lists of names: of a data set, of a config, of an arm of a comparison.
NAMES = ("classes", "train", "val", "test")
INNER = {f"data.{name}" for name in NAMES}
PLACES = {*NAMES, *INNER}


def quote_names(text: str, *, whole: bool = False, keys: bool = False) -> str:
    """The YAML text with quotes around the plain words of lists of names, so that `no`, `on`, `~`,
    `null`, `1e3`, `010` and `2001-01-01` stay what the user wrote. What is not YAML is returned
    as it is.

    Args:
        text: YAML.
        whole: whether all of the text is a list of names.
        keys: whether the keys of the uppermost level are names too.
    """
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError, ValueError):
        return text  # whoever loads it says what is wrong
    if root is None:
        return text
    lists = [root] if whole else _lists(root)
    words = [word for some in lists if isinstance(some, yaml.SequenceNode) for word in some.value]
    if keys and isinstance(root, yaml.MappingNode):
        words += [key for key, _ in root.value]
    places = {
        (word.start_mark.index, word.end_mark.index)
        for word in words
        if isinstance(word, yaml.ScalarNode) and word.style is None
    }
    for start, end in sorted(places, reverse=True):
        word = text[start:end]
        if word and word[0] not in "&!*":  # anchors and tags are left to YAML
            text = f"{text[:start]}'{word.replace(chr(39), 2 * chr(39))}'{text[end:]}"
    return text


def _lists(root: yaml.Node) -> list[yaml.Node]:
    """The values of the settings that are lists of names."""
    found = []
    level = [("", root)]
    for _ in range(3):  # classes; data, classes; an arm, data, classes
        below = []
        for place, node in level:
            for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
                here = f"{place}.{key.value}" if place else str(key.value)
                below.append((here, value))
        found += [value for place, value in below if _is_list(place)]
        level = below
    return found


def _is_list(place: str) -> bool:
    """Whether `data.classes`, or the same of an arm: `wide.data.classes`."""
    return place in PLACES or place.partition(".")[2] in INNER
