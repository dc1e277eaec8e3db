import pytest

from kanseg.data.label_spec import LabelSpec
from kanseg.utils.errors import InputError


def test_too_many_classes_are_reported_without_all_their_names():
    with pytest.raises(
        InputError, match=r"needs two to 255 classes .*got 0, 1, 2, 3, 4, \.\.\., 299$"
    ):
        LabelSpec("multiclass", tuple(map(str, range(300))))
