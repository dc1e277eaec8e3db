import sys

import pytest
import torch

from kanseg.bases import BASES
from kanseg.benchmark.original import LAYERS, MODELS, Original, clear_method_caches
from kanseg.models import list_bases
from kanseg.utils.errors import InputError


def test_a_folder_that_is_no_checkout_is_an_input_error(tmp_path):
    with pytest.raises(
        InputError, match=r"expected a checkout of torch-conv-kan.*git clone https://"
    ):
        Original(tmp_path / "nowhere")


def test_a_missing_package_is_named(checkout):
    (checkout / "kan_convs" / "__init__.py").write_text("import a_package_nobody_has")
    with pytest.raises(InputError, match="needs the package 'a_package_nobody_has'"):
        Original(checkout)
    assert str(checkout) not in sys.path


def test_another_package_of_the_same_name_is_not_taken_for_it(original, checkout, tmp_path):
    other = tmp_path / "other"
    checkout.rename(other)
    with pytest.raises(InputError, match="another 'kan_convs' is imported already"):
        Original(other)


def test_a_layer_that_the_checkout_lacks_is_an_input_error(original):
    with pytest.raises(InputError, match="has no FastKANConv2DLayer"):
        original.layer("rbf", 4)


def test_layers_are_built_from_the_checkout(original):
    layer = original.layer("gram", 4, groups=2)
    assert layer.conv.groups == 2
    assert layer(torch.randn(1, 4, 5, 6)).shape == (1, 4, 5, 6)


def test_caches_are_emptied(original):
    layer = original.layer("gram", 4)
    layer(torch.randn(1, 4, 5, 5))
    assert type(layer).cached.cache_info().currsize == 1
    clear_method_caches(layer)
    assert type(layer).cached.cache_info().currsize == 0


def test_counterparts_have_names_that_exist_here():
    assert set(LAYERS) <= set(BASES)
    assert {basis for _, basis in MODELS} <= set(list_bases())
