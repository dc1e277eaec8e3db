import io
import os
import sys

import pytest

from kanseg.utils.errors import InputError, run_tool
from kanseg.utils.io import temporary_beside
from kanseg.utils.text import PrintableStream, printable, safe_cell


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a.png", "a.png"),
        ("\x1b]0;title\x07\x1b[2Ja.png", "\\x1b]0;title\\x07\\x1b[2Ja.png"),
        ("a\x9b31mb\x7f", "a\\x9b31mb\\x7f"),
        ("a\u202egnp.exe", "a\\u202egnp.exe"),
        ("a\u2028b", "a\\u2028b"),
        ("\udcff.png", "\\udcff.png"),
        ("Straße 図.png", "Straße 図.png"),
        ("a\nb\tc", "a\nb\tc"),
    ],
)
def test_what_a_terminal_would_obey_is_shown_as_text(text, shown):
    assert printable(text) == shown


def test_line_ends_in_a_single_line_are_shown():
    assert printable("a\nerror: b\r", line=True) == "a\\nerror: b\\r"


def test_a_stream_shows_codes_and_what_its_encoding_lacks():
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    wrapped = PrintableStream(stream)
    print("\x1b[31mé\udcff", file=wrapped, flush=True)
    assert stream.buffer.getvalue() == b"\\x1b[31m\\xe9\\udcff\n"
    assert wrapped.encoding == "ascii"


@pytest.mark.parametrize("name", ["\x1b[31ma.png", "a\udcff.png"])
def test_tools_print_names_without_codes(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", sys.stdout)  # put back afterwards

    def main():
        print(f"read {name}")
        raise InputError(f"{name}: the file is empty\n{name}: and another")

    with pytest.raises(SystemExit) as stop:
        run_tool(main)
    out, err = capsys.readouterr()
    assert stop.value.code == 2
    assert out == f"read {printable(name)}\n"
    shown = printable(name)
    assert err == f"error: {shown}: the file is empty\nerror: {shown}: and another\n"


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        ("=1+2", "'=1+2"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("+x", "'+x"),
        ("-x", "'-x"),
        ("\t=1", "'\t=1"),
        ("-1.5e3", "-1.5e3"),
        ("+7", "+7"),
        (-3, -3),
        (0.5, 0.5),
        ("a=b", "a=b"),
        ("", ""),
    ],
)
def test_a_cell_is_no_formula_and_numbers_stay_numbers(value, cell):
    assert safe_cell(value) == cell


def test_a_temporary_name_is_short_and_one_for_each_file(tmp_path):
    longest = tmp_path / ("x" * 251 + ".png")
    name = temporary_beside(longest, ".tif").name
    assert name.startswith(".")
    assert name.endswith(f".{os.getpid()}.tmp.tif")
    assert len(name) < 60
    assert temporary_beside(longest).parent == tmp_path
    assert temporary_beside(longest) != temporary_beside(tmp_path / "y.png")
    assert temporary_beside(tmp_path / "a\udcff.png").name.isascii()
