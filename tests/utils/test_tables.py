import csv
import io

from kanseg.utils.io import atomic_write_text
from kanseg.utils.reading import parse_csv, read_text
from kanseg.utils.tables import csv_table, markdown_table, plain_table


def test_a_markdown_table_is_aligned():
    lines = markdown_table(["a", "number"], [["long name", "1"], ["b", "22"]]).splitlines()
    assert lines == [
        "| a         | number |",
        "|-----------|-------:|",
        "| long name |      1 |",
        "| b         |     22 |",
    ]


def test_columns_of_text_are_aligned_left_and_numbers_right():
    lines = markdown_table(["a", "b", "c"], [["x", "long", "1"]], text_columns=2).splitlines()
    assert lines[1:] == ["|-----|------|----:|", "| x   | long |   1 |"]


def test_a_table_without_rows_has_its_header():
    assert markdown_table(["a"], []).splitlines() == ["| a   |", "|-----|"]


def test_a_plain_table_has_no_rules_and_no_trailing_spaces():
    assert plain_table(["", "n"], [["long name", "1"], ["b", ""]]).splitlines() == [
        "           n",
        "long name  1",
        "b",
    ]


def test_csv_cells_are_quoted_and_formulas_are_escaped():
    text = csv_table(["name", "=x"], [["a,b", -0.5], ["=1+1", "-0.5"]])
    assert list(csv.reader(io.StringIO(text))) == [
        ["name", "'=x"],
        ["a,b", "-0.5"],
        ["'=1+1", "-0.5"],
    ]


def test_a_chinese_letter_takes_two_columns_and_an_accent_none():
    lines = plain_table(["名称", "n"], [["a", "1"], ["cafe\u0301", "22"]]).splitlines()
    assert lines == ["名称   n", "a      1", "cafe\u0301  22"]
    rule = markdown_table(["名称名称", "n"], []).splitlines()[1]
    assert rule == "|----------|----:|"


def test_only_tables_that_a_spreadsheet_would_misread_have_a_byte_order_mark(tmp_path):
    assert csv_table(["file"], [["a.png"]]).encode() == b"file\na.png\n"
    table = tmp_path / "table.csv"
    atomic_write_text(table, csv_table(["file", "class"], [["a.png", "猫"]]))
    assert table.read_bytes().startswith("\ufefffile".encode())
    assert parse_csv(read_text(table), table) == [["file", "class"], ["a.png", "猫"]]
    with table.open(encoding="utf-8-sig", newline="") as stream:
        assert next(csv.DictReader(stream)) == {"file": "a.png", "class": "猫"}
