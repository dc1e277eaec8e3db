from kanseg.utils.tables import markdown


def test_a_table_is_markdown_and_aligned():
    lines = markdown(["a", "number"], [["long name", "1"], ["b", "22"]]).splitlines()
    assert lines == [
        "| a         | number |",
        "|-----------|-------:|",
        "| long name |      1 |",
        "| b         |     22 |",
    ]
