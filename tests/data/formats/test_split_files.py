import pytest

from kanseg.data.formats.split_files import read_groups, read_split_files
from kanseg.utils.errors import InputError


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


def test_a_list_with_problems_still_gives_its_images(tmp_path):
    (tmp_path / "train.txt").write_text("b\na\n\nb\nmissing\n../a\n")
    (tmp_path / "val.txt").write_bytes(b"\xe4\n")
    images = {name: tmp_path / f"{name}.png" for name in "abc"}
    files = [tmp_path / "train.txt", tmp_path / "val.txt"]
    stems, problems = read_split_files(files, images, tmp_path)
    assert stems == {"train": ["b", "a"]}
    found = {name: [issue.code for issue in some] for name, some in problems.items()}
    assert found == {
        "train": ["split_path", "split_unknown", "split_repeated"],
        "val": ["split_encoding"],
    }
    assert [issue.details["names"] for issue in problems["train"]] == [["../a"], ["missing"], ["b"]]
