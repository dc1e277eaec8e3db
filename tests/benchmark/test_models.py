import pytest
import torch

from kanseg.benchmark import ModelCase, Setting, model_rows, model_table
from kanseg.benchmark.models import FULL, nearest_width, num_parameters
from kanseg.models import create_model
from kanseg.utils.errors import InputError

TINY, ONCE = ModelCase(size=16, batch=1), Setting(rounds=1, shortest=1.0)


def test_full_and_default_networks_are_measured():
    full, default = model_rows(["ukanet_18"], ["gram"], TINY, ONCE)
    assert (full["options"], default["options"]) == ("full", "default")
    assert full["parameters"] == num_parameters(create_model("ukanet_18", basis="gram", **FULL))
    assert default["parameters"] == num_parameters(create_model("ukanet_18", basis="gram"))
    assert min(row[key] for row in (full, default) for key in ("milliseconds", "saved_mib")) > 0
    assert len(model_table([full, default], original=False).splitlines()) == 4


def test_without_functions_there_is_one_network():
    assert [row["options"] for row in model_rows(["ukanet_18"], ["none"], TINY, ONCE)] == [
        "default"
    ]


def test_beside_the_original(original):
    theirs, full, default = model_rows(["ukanet_18"], ["gram"], TINY, ONCE, original)
    assert theirs["options"] == "torch-conv-kan"
    assert theirs["parameters"] == 3 * 2 * 55 * 55 + 2
    assert (
        theirs["saved_mib"]
        == 3 * 16 * 16 * 4 / 2**20 + 2 * 16 * 16 * 4 / 2**20 + 16 * 16 * 8 / 2**20 + 4 / 2**20
    )  # and cross-entropy's part
    assert "time_ratio" not in theirs
    assert full["width"] == 8
    assert full["saved_ratio"] == full["saved_mib"] / theirs["saved_mib"]
    assert default["parameters"] < 4 * theirs["parameters"]
    assert full["reach"] == [0.5, pytest.approx(1 / 3)]
    assert (
        len(
            {
                line.count("|")
                for line in model_table([theirs, full, default], original=True).splitlines()
            }
        )
        == 1
    )


def test_the_width_for_a_number_of_parameters():
    wanted = num_parameters(create_model("unet", basis="gram", width=7, depth=1))
    width = nearest_width("unet", "gram", wanted, depth=1)
    found = num_parameters(create_model("unet", basis="gram", width=width, depth=1))
    assert found == pytest.approx(wanted, rel=0.005)


def test_the_narrowest_network_is_the_nearest_to_too_few_parameters():
    assert nearest_width("unet", "gram", 10, depth=1) == 1


@pytest.mark.parametrize(
    ("names", "bases", "message"),
    [(["nt"], ["gram"], "unknown model"), (["unet"], ["grm"], "unknown basis")],
)
def test_unknown_names_are_input_errors(names, bases, message):
    with pytest.raises(InputError, match=message):
        list(model_rows(names, bases, TINY, ONCE))


def test_a_size_that_the_network_cannot_have_is_an_input_error():
    with pytest.raises(InputError, match="more than 1 value per channel"):
        list(model_rows(["unet"], ["none"], TINY, ONCE))
    with pytest.raises(InputError, match="at least 1"):
        list(model_rows(["unet"], ["gram"], ModelCase(batch=0), ONCE))
    assert torch.get_default_device().type == "cpu"
