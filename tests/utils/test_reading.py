"""Text from elsewhere: plain values come back, everything else is an InputError."""

import math
from dataclasses import dataclass, field
from typing import Literal

import pytest

from kanseg.utils.errors import InputError
from kanseg.utils.reading import (
    parse_csv,
    parse_json,
    parse_yaml,
    read_json_lines,
    read_text,
    read_yaml,
    typed,
)


def aliases(levels, width=9):
    """Lists of aliases of lists of aliases: a few lines that stand for width ** levels values."""
    lines = ["l0: &l0 [x]"]
    for i in range(1, levels):
        lines.append(f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * width)}]")
    return "\n".join(lines)


def test_plain_values_of_yaml():
    text = (
        "a: [background, no, yes, on, off, y, 2001-01-01]\nb: true\nc: 1e-3\nd: .5\ne: ~\nf: 0x1f"
    )
    assert parse_yaml(text) == {
        "a": ["background", "no", "yes", "on", "off", "y", "2001-01-01"],
        "b": True,
        "c": 0.001,
        "d": 0.5,
        "e": None,
        "f": 31,
    }
    assert parse_yaml("a: .inf\nb: -.inf\n1: 2") == {"a": math.inf, "b": -math.inf, 1: 2}
    assert parse_yaml("\ufeffa: 1") == {"a": 1}
    assert parse_yaml("") is None


def test_aliases_may_repeat_but_not_without_end():
    merged = parse_yaml("a: &a {b: 1, c: 2}\nd: {<<: *a, b: 3}\ne: *a")
    assert merged == {"a": {"b": 1, "c": 2}, "d": {"b": 3, "c": 2}, "e": {"b": 1, "c": 2}}
    assert len(parse_yaml(aliases(3))["l2"]) == 9
    with pytest.raises(InputError, match="aliases"):
        parse_yaml(aliases(40))
    merges = ["m0: &m0 {a: 1}"]
    merges += [f"m{i}: &m{i} {{<<: [{', '.join([f'*m{i - 1}'] * 9)}]}}" for i in range(1, 40)]
    with pytest.raises(InputError, match="aliases"):
        parse_yaml("\n".join(merges))
    with pytest.raises(InputError, match="alias"):
        parse_yaml("a: &a [*a]")


@pytest.mark.parametrize(
    "text",
    [
        *("a: !!int x", "a: !!float ''", "a: !!bool x", "a: !!timestamp x", "a: !!binary aGk="),
        *("a: !!timestamp 2001-99-99", "!!set {a}", "a: !!python/object/apply:os.system [ls]"),
        *("[" * 3000, "- " * 3000, "{a: " * 100, "a: " + "9" * 5000, "a: 0x" + "f" * 5000),
        *("a: 1\na: 2", "a: b: c", "a: [", "a: \x00", "? [a]\n: b", "a\n---\nb", "x" * 3_000_000),
    ],
)
def test_what_is_no_plain_yaml_is_refused(text):
    with pytest.raises(InputError, match="^here: "):
        parse_yaml(text, "here")


@pytest.mark.parametrize(
    "text",
    ["", "{", "[" * 100_000, '{"a": 1, "a": 2}', '"\\ud800"', "9" * 5000, '{"a": 01}', "\ufeff1"],
)
def test_what_is_no_json_is_refused(text):
    with pytest.raises(InputError, match="^here: not valid JSON"):
        parse_json(text, "here")


def test_values_of_json():
    assert parse_json('{"a": [1, 2.5, null, true, "\\ud83d\\ude00"]}', "") == {
        "a": [1, 2.5, None, True, "\U0001f600"]
    }
    assert math.isnan(parse_json("NaN", ""))
    assert parse_json("1e999", "") == math.inf


def test_csv():
    assert parse_csv('a,"b,c"\nd,e\n', "") == [["a", "b,c"], ["d", "e"]]
    with pytest.raises(InputError, match="^here: not valid CSV"):
        parse_csv("a," + "x" * 200_000, "here")


def test_encodings(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_bytes("a: ä".encode("utf-8-sig"))
    assert read_yaml(path) == {"a": "ä"}
    path.write_bytes("a: ä".encode("utf-16"))
    with pytest.raises(InputError, match="a.yaml: not UTF-8 text"):
        read_text(path)


@dataclass
class Part:
    size: int
    names: tuple[str, ...] = ()


@dataclass
class Whole:
    parts: dict[str, Part]
    kind: Literal["a", "b"] = "a"
    place: tuple[int, int] | None = None
    share: float = 0.5
    rest: list[float] = field(default_factory=list)


def test_typed_values():
    given = {
        "parts": {"x": {"size": 3, "names": ["a", "b"]}},
        "place": [1, 2],
        "share": 1,
        "rest": [1, 0.5],
    }
    found = typed(given, Whole, "w")
    assert found == Whole({"x": Part(3, ("a", "b"))}, "a", (1, 2), 1.0, [1.0, 0.5])
    assert isinstance(found.share, float)
    assert typed({"parts": {}}, Whole, "w") == Whole({})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"parts": []}, "w: parts: expected dict"),
        ({"parts": {"x": {"size": True}}}, "'x': size: expected int, got True"),
        ({"parts": {"x": {"size": 2**64}}}, "size: expected int"),
        ({"parts": {"x": {"size": 10**5000}}}, "size: expected int"),
        ({"parts": {"x": {"size": 1.0}}}, "size: expected int"),
        ({"parts": {"x": {}}}, "'size' is missing"),
        ({"parts": {1: {"size": 1}}}, "expected str, got 1"),
        ({"kind": "c"}, "kind: expected Literal"),
        ({"kind": ["a"]}, "kind: expected Literal"),
        ({"place": [1]}, r"place: expected tuple"),
        ({"place": "12"}, r"place: expected tuple"),
        ({"share": "0.5"}, "share: expected float"),
        ({"share": None}, "share: expected float, got None"),
        ({"rest": [1, "x"]}, r"rest\[1\]: expected float"),
        ({"other": 1}, "unknown entry 'other'"),
    ],
)
def test_other_types_are_named_with_their_place(change, message):
    with pytest.raises(InputError, match=message):
        typed({"parts": {}} | change, Whole, "w")


@pytest.mark.parametrize("text", ['root: "a\\0b"', '["a\\0"]', '{"a\\u0000": 1}'])
def test_texts_with_nul_are_refused(text):
    with pytest.raises(InputError, match="NUL character"):
        parse_yaml(text)


def test_json_lines_are_read_and_blank_ones_skipped(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\n\n{"step": 2, "x": null}')
    lines = read_json_lines(path, {"step": int}, hint="delete it")
    assert lines == [{"step": 1}, {"step": 2, "x": None}]


@pytest.mark.parametrize(
    "damaged", ['{"step": 2', '{"step": "2"}', '{"other": 2}', "[1]", "[" * 9999]
)
def test_a_damaged_json_line_is_named_with_its_cure(tmp_path, damaged):
    path = tmp_path / "log.jsonl"
    path.write_text(f'{{"step": 1}}\n{damaged}\n')
    with pytest.raises(InputError, match=r"log\.jsonl: line 2 .*delete it"):
        read_json_lines(path, {"step": int}, hint="delete it")
