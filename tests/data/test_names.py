from kanseg.data.names import few, natural_key, nfc, shorten


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
