import numpy as np
import pytest

from kanseg.data.splits import crossing_groups, cut_folds, read_groups
from kanseg.errors import InputError


def test_folds_of_single_items_differ_by_one_at_most_and_hold_each_once():
    items = list(range(23))
    parts = cut_folds(items, [str(i) for i in items], 5, seed=3)
    assert sorted(map(len, parts)) == [4, 4, 5, 5, 5]
    assert sorted(sum(parts, [])) == items
    assert parts == cut_folds(items, [str(i) for i in items], 5, seed=3)
    assert parts != cut_folds(items, [str(i) for i in items], 5, seed=4)


def test_groups_stay_together_and_large_ones_are_spread():
    sizes = [30, 29, 28, 3, 2, 2, 1, 1]
    groups = [f"g{g}" for g, size in enumerate(sizes) for _ in range(size)]
    parts = cut_folds(list(range(len(groups))), groups, 3, seed=0)
    assert len({frozenset(part) for part in parts}) == 3
    found = [{groups[i] for i in part} for part in parts]
    assert sum(map(len, found)) == len(sizes)
    assert np.ptp([len(part) for part in parts]) <= 1


def test_groups_in_two_roles_are_named():
    lines = crossing_groups(
        {"a": "g", "b": "g", "c": "h"}, {"train": ["a"], "val": ["b", "x"], "test": ["c"]}
    )
    assert len(lines) == 1
    assert "1 groups of groups.csv are in train and in val (the first: g)" in lines[0]


def test_a_name_in_two_groups_and_a_table_without_commas_are_refused(tmp_path):
    (tmp_path / "groups.csv").write_text("name,group\na,g\nb,h\na,h\n")
    with pytest.raises(InputError, match="'a' is in two groups, 'g' and 'h'"):
        read_groups(tmp_path)
    (tmp_path / "groups.csv").write_text("name;group\na;g\n")
    with pytest.raises(InputError, match="no line NAME,GROUP"):
        read_groups(tmp_path)


def test_fields_without_end_are_an_input_error(tmp_path):
    (tmp_path / "groups.csv").write_text("a," + "x" * 131_073)
    with pytest.raises(InputError, match="groups.csv: not valid CSV"):
        read_groups(tmp_path)
