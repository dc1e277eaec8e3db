import pytest

from kanseg.data.label_spec import LabelSpec
from kanseg.utils.errors import InputError


def test_too_many_classes_are_reported_without_all_their_names():
    with pytest.raises(
        InputError, match=r"needs two to 255 classes .*got 0, 1, 2, 3, 4, \.\.\., 299$"
    ):
        LabelSpec("multiclass", tuple(map(str, range(300))))


def test_the_error_of_mask_values_lists_what_is_allowed():
    allowed = r"\{7: 9\} is not allowed.* one of 0 \(a\), 1 \(b\), 255 \(ignored\)"
    with pytest.raises(InputError, match=allowed):
        LabelSpec("binary", ("a", "b"), mask_values={7: 9})
    spec = LabelSpec("binary", ("a", "b"), mask_values={7: 9}, ignore_index=9)
    assert spec.index_of_value[7] == 255
