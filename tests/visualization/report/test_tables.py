import pytest

from kanseg.visualization.report.tables import (
    Cell,
    flatten,
    format_value,
    readable_name,
    score_tables,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (float("nan"), "-"),
        (float("inf"), "-"),
        (0.5, "0.5000"),
        (1.0, "1.0000"),
        (12.3456, "12.35"),
        (123456.7, "123,457"),
        (7, "7"),
        (True, "True"),
        ("a<b", "a<b"),
    ],
)
def test_a_value_as_text(value, text):
    assert format_value(value) == text


def test_names_of_scores_are_readable():
    assert readable_name("mean_iou") == "mean IoU"
    assert readable_name("surface.mean_nsd") == "surface, mean NSD"


def test_shares_have_bars_and_counts_have_none():
    classes = {"a": {"iou": 0.25, "pixels": 300}, "b": {"iou": None, "pixels": 100}}
    tables = score_tables({"images": 1, "classes": classes})
    assert tables.header == ["class", "share of the set", "IoU", "pixels"]
    assert tables.classes == {
        "a": [Cell("75.00%", 75), Cell("0.2500", 25), Cell("300")],
        "b": [Cell("25.00%", 25), Cell("-"), Cell("100")],
    }


def test_scores_per_image_are_columns_after_those_over_the_set():
    per_image = {"mean_iou": 0.4, "classes": {"a": {"iou": 0.3}}}
    tables = score_tables({"classes": {"a": {"iou": 0.2}}, "mean_iou": 0.1, "per_image": per_image})
    assert tables.header == ["class", "IoU", "IoU per image"]
    assert tables.classes == {"a": [Cell("0.2000", 20), Cell("0.3000", 30)]}
    assert tables.means == [("mean IoU", "0.1000"), ("mean IoU per image", "0.4000")]


def test_classes_without_pixels_have_no_share():
    tables = score_tables({"images": 1, "classes": {"a": {"iou": None, "pixels": 0}}})
    assert tables.header == ["class", "IoU", "pixels"]
    assert tables.classes == {"a": [Cell("-"), Cell("0")]}


def test_nested_scores_are_flattened_and_lists_are_left_out():
    assert flatten({"a": {"b": 1, "c": {"d": 2}}, "confusion": [[1]]}) == {"a.b": 1, "a.c.d": 2}
