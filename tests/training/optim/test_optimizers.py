import sys

import pytest
import torch
from torch import nn

import kanseg
from kanseg.config import TrainingConfig
from kanseg.layers import KANConv2d, KANLinear
from kanseg.training.optim.lr_scheduler import create_lr_scheduler, current_lr
from kanseg.training.optim.optimizers import (
    OPTIMIZERS,
    create_optimizer,
    describe_function_rates,
    parameter_groups,
)
from kanseg.utils.errors import InputError


def one_step(name, gradient=(3.0, -0.5), value=(1.0, 2.0), **options):
    parameter = nn.Parameter(torch.tensor(value))
    optimizer = create_optimizer(name, [parameter], lr=0.1, **options)
    parameter.grad = torch.tensor(gradient)
    optimizer.step()
    return parameter.detach().tolist()


def test_the_first_step_is_that_of_the_formula():
    assert one_step("adamw", weight_decay=0.5) == pytest.approx([0.95 - 0.1, 1.9 + 0.1], abs=1e-6)
    assert one_step("sgd", momentum=0.0, nesterov=False) == pytest.approx([1 - 0.3, 2 + 0.05])
    assert one_step("sgd") == pytest.approx(
        [1 - 0.1 * 1.9 * 3, 2 + 0.1 * 1.9 * 0.5]
    )  # nesterov: gradient + 0.9 * momentum, which is the gradient
    pytest.importorskip("timm")
    assert one_step("lion", weight_decay=0.5) == pytest.approx([0.95 - 0.1, 1.9 + 0.1])


def test_lbfgs_fits_a_quadratic_in_one_step_and_a_kan_beside_it():
    x = torch.randn(64, 2)
    for model, y, limit in (
        (nn.Linear(2, 1), x @ torch.tensor([[2.0], [-1.0]]), 1e-8),
        (kanseg.kan([2, 3, 1]), x.prod(1, keepdim=True).tanh(), 0.05),
    ):
        optimizer = create_optimizer(
            "lbfgs", model.parameters(), lr=1.0, max_iter=50, history_size=20
        )
        assert optimizer.param_groups[0]["line_search_fn"] == "strong_wolfe"
        assert optimizer.param_groups[0]["history_size"] == 20

        def closure(model=model, y=y, optimizer=optimizer):
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(model(x), y)
            loss.backward()
            return loss

        optimizer.step(closure)
        assert closure() < limit


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_parameters_may_come_as_a_generator_or_a_group(name):
    if name == "lion":
        pytest.importorskip("timm")
    layer = nn.Linear(2, 2)
    for given in (layer.parameters(), [{"params": list(layer.parameters())}]):
        assert (
            sum(
                p.numel()
                for group in create_optimizer(name, given, lr=0.1).param_groups
                for p in group["params"]
            )
            == 6
        )


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("adam", {}, "unknown optimizer 'adam'; did you mean 'adamw'"),
        (
            "sgd",
            {"momentun": 0.5},
            "optimizer sgd has no option 'momentun'; did you mean 'momentum'",
        ),
        ("sgd", {"momentum": 0.0}, "nesterov needs a momentum"),
        ("lbfgs", {"weight_decay": 0.1}, "no weight decay"),
    ],
)
def test_mistakes_are_named(name, options, message):
    with pytest.raises(ValueError, match=message):
        create_optimizer(name, [nn.Parameter(torch.zeros(1))], lr=0.1, **options)


def test_lbfgs_takes_one_group():
    with pytest.raises(InputError, match="one group"):
        create_optimizer(
            "lbfgs",
            [
                {"params": [nn.Parameter(torch.zeros(1))]},
                {"params": [nn.Parameter(torch.zeros(1))]},
            ],
            lr=1.0,
        )


def test_lion_without_timm_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm.optim", None)
    with pytest.raises(InputError, match="pip install 'timm"):
        create_optimizer("lion", [nn.Parameter(torch.zeros(1))], lr=0.1)


def network():
    return nn.ModuleDict(
        {"encoder": nn.Linear(2, 2), "norm": nn.BatchNorm1d(2), "head": nn.Linear(2, 1)}
    )


def test_groups_have_their_share_of_the_rate_and_the_first_pattern_counts():
    model = network()
    settings = TrainingConfig(lr=0.1, warmup=0.0, lr_factors={"encoder.*": 0.1, "*.bias": 0.0})
    optimizer = create_optimizer("sgd", parameter_groups(model, settings), lr=0.1)
    assert current_lr(create_lr_scheduler(optimizer, settings, total=10), 0.1) == pytest.approx(0.1)
    found = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    expected = {
        "encoder.weight": 0.01,
        "encoder.bias": 0.01,
        "norm.weight": 0.1,
        "norm.bias": 0.0,
        "head.weight": 0.1,
        "head.bias": 0.0,
    }
    assert {name: found[id(p)] for name, p in model.named_parameters()} == pytest.approx(expected)


def test_a_factor_of_zero_keeps_the_weights():
    model = network()
    before = [p.clone() for p in model["encoder"].parameters()]
    settings = TrainingConfig(lr=0.1, warmup=0.0, lr_factors={"encoder.*": 0.0})
    groups = parameter_groups(model, settings)
    optimizer = create_optimizer("adamw", groups, lr=0.1, weight_decay=0.5)
    ours = create_lr_scheduler(optimizer, settings, total=3)
    for _ in range(3):
        model["head"](model["norm"](model["encoder"](torch.randn(8, 2)))).square().sum().backward()
        optimizer.step()
        ours.step()
    assert all(
        torch.equal(old, new)
        for old, new in zip(before, model["encoder"].parameters(), strict=True)
    )


def test_without_factors_there_is_one_group_in_the_models_order():
    model = network()
    groups = parameter_groups(model, TrainingConfig())
    assert [group.keys() for group in groups] == [{"params"}]
    assert [id(p) for p in groups[0]["params"]] == [id(p) for p in model.parameters()]


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        (
            {"encodr.*": 0.1},
            r"'encodr\.\*' matches no parameter; .*encoder\.weight, ",
        ),
        ({"encoder": 0.1}, "matches no parameter"),  # the whole name
        ({"*": 0.5, "head.*": 1.0}, "only parameters of earlier patterns"),
        ({"head.*": -1.0}, "must be 0 or more, got -1.0"),
        ({"head.*": float("nan")}, "must be 0 or more"),
    ],
)
def test_wrong_factors_are_named(factors, message):
    with pytest.raises(InputError, match=message):
        parameter_groups(network(), TrainingConfig(lr_factors=factors))


def learned():
    """A layer of functions a channel, one of a function a layer, one of functions of each edge."""
    return nn.Sequential(
        KANConv2d(2, 3, 3, basis="gram", share="channel"),
        KANConv2d(3, 2, 3, basis="bspline", share="layer", position="before_conv"),
        nn.Flatten(),
        KANLinear(2, 3, basis="gram"),
    )


SHARED = {"0.activation.weight", "1.base_activation.weight"}
EDGES = {"3.basis_linear.weight"}


def stepped(model, **settings):
    """Name -> learning rate and weight decay that an optimizer has for it."""
    settings = TrainingConfig(**({"lr": 0.1, "warmup": 0.0, "weight_decay": 0.5} | settings))
    groups = parameter_groups(model, settings)
    optimizer = create_optimizer("adamw", groups, lr=settings.lr, weight_decay=0.5)
    create_lr_scheduler(optimizer, settings, total=10)
    found = {
        id(p): (pytest.approx(group["lr"]), group["weight_decay"])
        for group in optimizer.param_groups
        for p in group["params"]
    }
    return {name: found[id(p)] for name, p in model.named_parameters()}


@pytest.mark.parametrize(
    ("given", "shared", "edges"),
    [
        ({}, (1.0, 0.0), (0.1, 0.5)),
        ({"function_lr": 3.0}, (0.3, 0.0), (0.3, 0.5)),
        ({"function_lr": 0.0}, (0.0, 0.0), (0.0, 0.5)),
        ({"function_decay": True}, (1.0, 0.5), (0.1, 0.5)),
        ({"function_decay": False}, (1.0, 0.0), (0.1, 0.0)),
        ({"function_lr": 1.0, "function_decay": True}, (0.1, 0.5), (0.1, 0.5)),
        ({"lr_factors": {"0.*": 0.5}}, (1.0, 0.0), (0.1, 0.5)),
    ],
    ids=str,
)
def test_functions_have_their_own_rate_and_decay(given, shared, edges):
    """Shared ones ten times the rate and no decay, those of edges what other weights have."""
    model = learned()
    scale = {
        name: 0.5 if given.get("lr_factors") and name[0] == "0" else 1.0 for name in stepped(model)
    }
    expected = {name: (0.1 * scale[name], 0.5) for name in scale}
    expected |= {name: (shared[0] * scale[name], shared[1]) for name in SHARED}
    expected |= dict.fromkeys(EDGES, edges)
    assert {name: expected[name] for name in SHARED | EDGES} == {
        name: found for name, found in stepped(model, **given).items() if name in SHARED | EDGES
    }
    assert stepped(model, **given) == expected


def test_every_parameter_is_in_one_group():
    model = learned()
    groups = parameter_groups(model, TrainingConfig(lr=0.1, lr_factors={"0.*": 0.5}))
    held = [id(p) for group in groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters())
    assert sorted(group.get("lr", 0.1) for group in groups) == [0.05, 0.1, 0.5, 1.0]


def test_without_decay_a_coefficient_without_a_gradient_stays():
    model = learned()
    weight = nn.init.ones_(model[0].activation.weight)
    settings = TrainingConfig(lr=0.1, warmup=0.0, weight_decay=0.5)
    groups = parameter_groups(model, settings)
    optimizer = create_optimizer("adamw", groups, lr=0.1, weight_decay=0.5)
    kernel = model[0].base_conv.weight.detach().clone()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert (weight == 1).all()
    torch.testing.assert_close(model[0].base_conv.weight, kernel * (1 - 0.1 * 0.5))


def test_lbfgs_has_one_group_and_one_rate():
    groups = parameter_groups(learned(), TrainingConfig(optimizer="lbfgs"))
    assert len(groups) == 1
    assert groups[0].keys() == {"params"}
    assert describe_function_rates(learned(), TrainingConfig(optimizer="lbfgs")) == []


@pytest.mark.parametrize("factor", [-1.0, float("nan"), float("inf")])
def test_a_wrong_factor_of_functions_is_named(factor):
    with pytest.raises(InputError, match="function_lr"):
        parameter_groups(learned(), TrainingConfig(function_lr=factor))


def test_what_is_special_about_functions_is_reported():
    model = learned()
    count = sum(dict(model.named_parameters())[name].numel() for name in SHARED)
    (line,) = describe_function_rates(model, TrainingConfig())
    assert f" {count} " in line
    assert "shared" in line
    assert "10 times" in line
    assert "function_lr" in line
    both = describe_function_rates(model, TrainingConfig(function_lr=2.0))
    assert len(both) == 2
    assert all("2 times" in each for each in both)
    plain = TrainingConfig(function_lr=1.0, function_decay=True)
    assert describe_function_rates(model, plain) == []
    assert describe_function_rates(network(), TrainingConfig()) == []
