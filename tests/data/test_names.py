from kanseg.data.names import few, join_texts, natural_key, nfc, shorten
from kanseg.utils.language import translate


def test_names_from_other_systems_compare_equal():
    assert nfc("a\u0308") == "\u00e4"


def test_numbers_in_names_are_sorted_as_numbers():
    names = ["class_10", "class_2", "10", "9", "class", "b\u00b2"]
    assert sorted(names, key=natural_key) == ["9", "10", "b\u00b2", "class", "class_2", "class_10"]


def test_long_lists_show_their_first_names_and_their_length():
    assert few("abc") == "a, b, c"
    assert few(range(12)) == "0, 1, 2, 3, 4, ... (12 in all)"


def test_long_rows_of_values_are_shortened_in_the_middle():
    assert shorten(range(8)) == "0, 1, 2, 3, 4, 5, 6, 7"
    assert shorten(range(12)) == "0, 1, 2, 3, 4, ..., 11"


def test_texts_that_differ_in_values_become_one():
    def text(values, row, hint=""):
        return translate("values {values} in row {row}{hint}", values=values, row=row, hint=hint)

    def hint(name):
        return translate("; did you mean {name}?", name=name)

    assert join_texts([text(("3",), 4), text(("7", "3"), 9)]) == "values 3, 7 in row 4 to 9"
    joined = join_texts([text((3,), 1, hint("a")), text((3,), 1), text((3,), 1, hint("b"))])
    assert joined == "values 3 in row 1; did you mean a, b?"
    assert join_texts(["a", "b"]) == "a, b"
