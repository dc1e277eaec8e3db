"""Read YAML, JSON and CSV from untrusted files, and check the types of their values.

Data sets, configs and checkpoints may be damaged or malicious. Every fault is an `InputError` that
names the file. No content can run code, or take much time or memory.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from kanseg.utils.errors import InputError
from kanseg.utils.text import one_line
from kanseg.utils.yaml_names import keep_names

MAX_YAML = 2_000_000  # characters; PyYAML reads some 100,000 a second
MAX_DEPTH = 50  # nested lists and mappings in YAML
MAX_NODES = 300_000  # values and keys of a YAML text, with aliases expanded
LARGEST = 2**63  # larger integers are refused; C code fails on them
# Surrogates are valid in JSON, but not in file names, terminals or other files.
SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def read_text(path: Path) -> str:
    """Read a UTF-8 file, with or without a byte order mark; InputError for another encoding."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            "not UTF-8 text ({reason} at byte {start}); save it as UTF-8",
            reason=error.reason,
            start=error.start,
            where=path,
        ) from None


def read_yaml(path: Path) -> Any:
    """Read a YAML file; arguments and errors as of `parse_yaml`."""
    if path.stat().st_size > 4 * MAX_YAML:
        raise InputError(
            "too large for a file of settings ({size} bytes)",
            size=path.stat().st_size,
            where=path,
        )
    return parse_yaml(read_text(path), path)


def read_json(path: Path) -> Any:
    """Read a JSON file; errors as of `parse_json`."""
    return parse_json(read_text(path), path)


def parse_yaml(text: str, where: object = None) -> Any:
    """Parse YAML 1.2: mappings, lists, strings, numbers, true, false and null.

    `no`, `yes`, `on`, `off` and dates are strings, `1e-3` is a number, and lists of names
    (`classes`, `data.train`, ...) keep every word as written. Repeated keys, tags of other types,
    and aliases that expand to hundreds of thousands of values are refused.

    Args:
        text: YAML.
        where: prefix of error messages, such as the file; None for no prefix.

    Raises:
        InputError: invalid or refused YAML.
    """
    if len(text) > MAX_YAML:
        raise InputError("too long for settings ({count} characters)", count=len(text), where=where)
    # PyYAML's constructors raise many kinds of errors: ValueError for `!!int x`, KeyError for
    # `!!bool x`, AttributeError for `!!timestamp x`, IndexError for `!!float ''`, RecursionError.
    try:
        content = yaml.load(text.removeprefix("\ufeff"), Loader=_Loader)  # noqa: S506 - a SafeLoader
        _check_plain(content)
    except Exception as error:
        raise InputError("not valid YAML: {reason}", reason=one_line(error), where=where) from None
    return content


def parse_json(text: str, where: object) -> Any:
    """Parse JSON. NaN and Infinity are allowed, since Python writes them.

    Raises:
        InputError: invalid JSON, deep nesting, a repeated key in an object, integers of thousands
            of digits, surrogates.
    """
    try:
        content = json.loads(text, object_pairs_hook=_unique_keys)
        if SURROGATE.search(text):
            json.dumps(content, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise InputError(
            "not valid JSON (half of a character, \\uD800 to \\uDFFF)", where=where
        ) from None
    except (ValueError, RecursionError) as error:
        raise InputError("not valid JSON ({reason})", reason=one_line(error), where=where) from None
    return content


def read_json_lines(path: Path, fields: Mapping[str, type], *, hint: str) -> list[dict[str, Any]]:
    """Read the objects of a JSON-lines file; blank lines are skipped.

    Args:
        path: the file.
        fields: name -> type of the entries that every object must have.
        hint: how to fix a damaged line, for the message.

    Raises:
        InputError: a line that is not such an object.
    """
    found = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        if not line.strip():
            continue
        content = parse_json_line(line, fields)
        if content is None:
            raise InputError(
                "line {number} is damaged; {hint}", number=number, hint=hint, where=path
            )
        found.append(content)
    return found


def parse_json_line(line: bytes, fields: Mapping[str, type]) -> dict[str, Any] | None:
    """Parse a line of a JSON-lines file; None if it is damaged or lacks one of `fields`."""
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(content, dict):
        return None
    for name, kind in fields.items():
        if name not in content or not isinstance(content[name], kind):
            return None
    return content


def parse_csv(text: str, where: object) -> list[list[str]]:
    """Parse CSV into rows.

    Raises:
        InputError: a quote that is not closed, a field of more than 131,072 characters.
    """
    try:
        return list(csv.reader(io.StringIO(text)))
    except csv.Error as error:
        raise InputError("not valid CSV ({reason})", reason=error, where=where) from None


def typed(value: Any, kind: Any, where: object) -> Any:
    """Check and convert a value to the type of an annotation: `int`, `float | None`, `list[str]`,
    `tuple[int, int]`, `dict[str, int]`, `Literal[...]`, `Any` or a dataclass of these (from a
    mapping).

    An integer is accepted as a float, and a list as a tuple. Integers beyond 64 bits are refused.

    Raises:
        InputError: another type; the message names the key or index.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin in (Union, UnionType):
        return _typed_choice(value, kind, where)
    if origin is Literal and any(type(value) is type(each) and value == each for each in arguments):
        return value
    if is_dataclass(kind):
        return _typed_fields(value, kind, where)
    if origin is list and isinstance(value, (list, tuple)):
        return [typed(each, arguments[0], f"{where}[{i}]") for i, each in enumerate(value)]
    if origin is tuple and isinstance(value, (list, tuple)):
        return _typed_tuple(value, kind, where)
    if origin is dict and isinstance(value, Mapping):
        result = {}
        for key, each in value.items():
            name = typed(key, arguments[0], where)
            result[name] = typed(each, arguments[1], f"{where}: {key!r:.60}")
        return result
    if kind in (None, NoneType) and value is None:
        return None
    if kind is float and type(value) is int and abs(value) < LARGEST:
        return float(value)
    if kind is int and type(value) is int and abs(value) >= LARGEST:
        return _refuse(value, kind, where)
    if isinstance(kind, type) and origin is None and type(value) is kind:
        return value
    return _refuse(value, kind, where)


def _typed_choice(value: Any, kind: Any, where: object) -> Any:
    """The value as the first member of a union that accepts it."""
    others = [each for each in get_args(kind) if each is not NoneType]
    if len(others) == 1 and value is not None:  # `X | None`: report the error of X
        return typed(value, others[0], where)
    for each in get_args(kind):
        try:
            return typed(value, each, where)
        except InputError:
            continue
    return _refuse(value, kind, where)


def _typed_tuple(value: Any, kind: Any, where: object) -> tuple:
    """The value as `tuple[A, B, C]`, or `tuple[A, ...]` of any length."""
    kinds = get_args(kind)
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        kinds = (kinds[0],) * len(value)
    if len(kinds) != len(value):
        return _refuse(value, kind, where)
    result = []
    for i, (each, part) in enumerate(zip(value, kinds, strict=True)):
        result.append(typed(each, part, f"{where}[{i}]"))
    return tuple(result)


def _typed_fields(value: Any, kind: Any, where: object) -> Any:
    """A dataclass from a mapping; unknown and missing fields are errors."""
    if not isinstance(value, Mapping):
        return _refuse(value, kind, where)
    hints, given = get_type_hints(kind), {}
    known = {field.name: field for field in fields(kind) if field.init}
    for key, each in value.items():
        if key not in known:
            raise InputError("unknown entry {key!r:.60}", key=key, where=where)
        given[key] = typed(each, hints[key], f"{where}: {key}")
    for name, field in known.items():
        if name not in given and field.default is MISSING and field.default_factory is MISSING:
            raise InputError("the entry {name!r} is missing", name=name, where=where)
    return kind(**given)


def _refuse(value: Any, kind: Any, where: object) -> Any:
    wanted = str(kind)
    if isinstance(kind, type) and not get_args(kind):
        wanted = kind.__name__
    if isinstance(value, int) and abs(value) >= LARGEST:
        shown = type(value).__name__  # it may have more digits than Python converts
    else:
        shown = f"{value!r:.60}"
    raise InputError(
        "expected {wanted}, got {shown}",
        wanted=wanted.replace("typing.", ""),
        shown=shown,
        where=where,
    )


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object as a dictionary; ValueError for a repeated key."""
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"the key {key!r:.60} is repeated in an object")
        result[key] = value
    return result


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, with the plain values of YAML 1.2 and limits on depth and size."""

    depth = 0

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None:
            _count(node, {})
            keep_names(node)
        return node

    def compose_node(self, parent: Any, index: Any) -> yaml.Node | None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise yaml.YAMLError(f"more than {MAX_DEPTH} nested lists or mappings")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = set()
        # Checked before `<<: *name` is merged, because keys may replace merged ones.
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if (key.tag, key.value) in keys:
                    line = key.start_mark.line + 1
                    raise yaml.YAMLError(f"the key {key.value!r:.60} is repeated (line {line})")
                keys.add((key.tag, key.value))
        return super().construct_mapping(node, deep=deep)


def _count(node: yaml.Node, known: dict[int, int | None]) -> int:
    """Count the values in a node with aliases expanded. A few lines of aliases can expand to
    billions of values.

    Args:
        node: the node.
        known: id of a node -> its count; None while it is being counted.
    """
    if id(node) in known:
        if known[id(node)] is None:
            raise yaml.YAMLError("an alias is used inside the value that it names")
        return known[id(node)]
    known[id(node)] = None
    parts: list[yaml.Node] = []
    if isinstance(node, yaml.MappingNode):
        for pair in node.value:
            parts += pair
    elif isinstance(node, yaml.SequenceNode):
        parts = node.value
    total = 1 + sum(_count(part, known) for part in parts)
    if total > MAX_NODES:
        raise yaml.YAMLError(f"more than {MAX_NODES} values, aliases included")
    known[id(node)] = total
    return total


def _check_plain(value: Any) -> None:
    """ValueError for values that are not plain: bytes, sets, dates, integers beyond 64 bits, and
    text with a NUL, which no path can contain.
    """
    if isinstance(value, dict):
        for key, each in value.items():
            _check_plain(key)
            _check_plain(each)
    elif isinstance(value, list):
        for each in value:
            _check_plain(each)
    elif isinstance(value, int):
        if abs(value) >= LARGEST:
            raise ValueError("an integer of more than 64 bits")
    elif isinstance(value, str) and "\0" in value:
        raise ValueError("a text that contains a NUL character")
    elif not isinstance(value, (str, float, NoneType)):
        raise ValueError(f"a value of type {type(value).__name__}; put it in quotes")


# Plain values of YAML 1.2. YAML 1.1 reads `no` as False, `2001-01-01` as a date, and numbers
# without a point, such as 1e-3, as strings.
_REPLACED = ("tag:yaml.org,2002:bool", "tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:float")
_Loader.yaml_implicit_resolvers = {}
for _letter, _resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items():
    _kept = [resolver for resolver in _resolvers if resolver[0] not in _REPLACED]
    _Loader.yaml_implicit_resolvers[_letter] = _kept
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"""^(?:[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?
        |[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+
        |[-+]?\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?
        |[-+]?\.(?:inf|Inf|INF)
        |\.(?:nan|NaN|NAN))$""",
        re.VERBOSE,
    ),
    list("-+0123456789."),
)
