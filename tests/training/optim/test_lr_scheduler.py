import pytest
import torch
from torch import nn

from kanseg.config import TrainingConfig
from kanseg.layers import KANConv2d, KANLinear
from kanseg.training.optim.lr_scheduler import (
    PlateauState,
    create_lr_scheduler,
    current_lr,
    describe_function_rates,
    parameter_groups,
)
from kanseg.training.optim.optimizers import SCHEDULES, create_optimizer
from kanseg.utils.errors import InputError

VALUES = [
    0.1,
    0.2,
    0.2,
    0.15,
    0.19,
    0.3,
    0.1,
    0.1,
    0.1,
    0.1,
    float("nan"),
    0.1,
    0.1,
    0.1,
    0.31,
    0.1,
    0.1,
    0.1,
]


def network():
    return nn.ModuleDict(
        {"encoder": nn.Linear(2, 2), "norm": nn.BatchNorm1d(2), "head": nn.Linear(2, 1)}
    )


def scheduler(model, total=10, step=0, plateau=None, **settings):
    settings = TrainingConfig(**({"lr": 0.1, "warmup": 0.0} | settings))
    optimizer = create_optimizer("sgd", parameter_groups(model, settings), lr=settings.lr)
    return create_lr_scheduler(optimizer, settings, total=total, step=step, plateau=plateau)


def advance(scheduler, steps):
    for _ in range(steps):
        scheduler.optimizer.step()
        scheduler.step()


@pytest.mark.parametrize(
    "options",
    [{}, {"factor": 0.1, "patience": 2}, {"patience": 0, "factor": 0.5, "min_factor": 0.2}],
)
def test_plateau_is_pytorchs(options):
    theirs = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    given = {"factor": 0.5, "patience": 5} | options
    floor = 0.1 * given.pop("min_factor", 0.0)
    reduce = torch.optim.lr_scheduler.ReduceLROnPlateau(
        theirs, mode="max", threshold=0.0, min_lr=floor, **given
    )
    ours = scheduler(network(), total=99, schedule="plateau", schedule_options=options)
    best = None
    for value in VALUES:
        advance(ours, 1)
        reduce.step(value)
        improved = best is None or value > best
        best = value if improved else best
        ours.step_validation(improved=improved)
        expected = theirs.param_groups[0]["lr"]
        assert ours.get_last_lr() == [pytest.approx(expected)]
        assert ours.optimizer.param_groups[0]["lr"] == pytest.approx(expected)


def test_validations_within_the_warm_up_do_not_count():
    ours = scheduler(
        network(), total=10, warmup=0.5, schedule="plateau", schedule_options={"patience": 0}
    )
    assert current_lr(ours, 0.1) == pytest.approx(0.1 * 0.04)
    advance(ours, 1)
    ours.step_validation(improved=False)
    assert ours.get_last_lr() == [pytest.approx(0.1 * (0.04 + 0.96 / 5))]
    advance(ours, 4)
    ours.step_validation(improved=False)
    assert ours.get_last_lr() == [pytest.approx(0.1)]
    advance(ours, 1)
    ours.step_validation(improved=False)
    assert ours.get_last_lr() == [pytest.approx(0.05)]
    assert current_lr(ours, 0.1) == pytest.approx(0.05)


@pytest.mark.parametrize("schedule", list(SCHEDULES))
def test_a_resumed_schedule_goes_on_at_its_step(schedule):
    """Whatever rates an optimizer has stored, and to the last bit."""
    settings = {"schedule": schedule, "warmup": 0.25, "lr_factors": {"encoder.*": 0.1}}
    whole = scheduler(network(), total=10, **settings)
    for step in range(11):
        resumed = scheduler(network(), total=10, step=step, **settings)
        assert resumed.get_last_lr() == whole.get_last_lr()
        advance(whole, 1)


def test_a_resumed_plateau_keeps_its_reductions():
    settings = {"schedule": "plateau", "schedule_options": {"patience": 1}}
    state = PlateauState(scale=0.25, stale=1)
    ours = scheduler(network(), step=4, plateau=state, **settings)
    assert ours.get_last_lr() == [pytest.approx(0.025)]
    ours.step_validation(improved=False)
    assert (state.scale, state.stale) == (0.125, 0)
    assert ours.get_last_lr() == [pytest.approx(0.0125)]


def test_groups_have_their_share_of_the_rate_and_the_first_pattern_counts():
    model = network()
    ours = scheduler(model, lr_factors={"encoder.*": 0.1, "*.bias": 0.0})
    assert current_lr(ours, 0.1) == pytest.approx(0.1)
    found = {id(p): group["lr"] for group in ours.optimizer.param_groups for p in group["params"]}
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
