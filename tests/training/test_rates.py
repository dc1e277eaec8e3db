import pytest
import torch
from torch import nn

from kanseg.config import TrainingConfig
from kanseg.errors import InputError
from kanseg.training.optimisers import create_optimiser
from kanseg.training.rates import Rates, Stand, parameter_groups

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


def rates(model, total=10, **settings):
    settings = TrainingConfig(**({"lr": 0.1, "warmup": 0.0} | settings))
    groups, factors = parameter_groups(model, settings)
    return Rates(
        create_optimiser("sgd", groups, lr=settings.lr), settings, total=total, factors=factors
    )


@pytest.mark.parametrize(
    "options",
    [{}, {"factor": 0.1, "patience": 2}, {"patience": 0, "factor": 0.5, "min_factor": 0.2}],
)
def test_plateau_is_pytorchs(options):
    theirs = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    given = {"factor": 0.5, "patience": 5} | options
    floor = given.pop("min_factor", 0.0)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
        theirs, mode="max", threshold=0.0, min_lr=floor, **given
    )
    ours, stand, best = (
        rates(network(), schedule="plateau", schedule_options=options),
        Stand(),
        None,
    )
    for step, value in enumerate(VALUES, 1):
        scheduler.step(value)
        improved = best is None or value > best
        best = value if improved else best
        stand = ours.validated(stand, improved=improved, step=step)
        assert stand.scale == pytest.approx(theirs.param_groups[0]["lr"])


def test_validations_within_the_warm_up_do_not_count():
    ours = rates(
        network(), total=10, warmup=0.5, schedule="plateau", schedule_options={"patience": 0}
    )
    assert ours.validated(Stand(), improved=False, step=5) == Stand()
    assert ours.validated(Stand(), improved=False, step=6) == Stand(0.5)
    assert ours.set(1, Stand()) == pytest.approx(0.1 * (0.04 + 0.96 / 5))
    assert ours.set(7, Stand(0.5)) == pytest.approx(0.05)


def test_other_schedules_do_not_listen():
    assert rates(network()).validated(Stand(), improved=False, step=9) == Stand()


def test_groups_have_their_share_of_the_rate_and_the_first_pattern_counts():
    model = network()
    ours = rates(model, lr_factors={"encoder.*": 0.1, "*.bias": 0.0})
    assert ours.set(0, Stand()) == pytest.approx(0.1)
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
    groups, factors = parameter_groups(model, settings)
    optimizer = create_optimiser("adamw", groups, lr=0.1, weight_decay=0.5)
    ours = Rates(optimizer, settings, total=3, factors=factors)
    for step in range(3):
        ours.set(step, Stand())
        model["head"](model["norm"](model["encoder"](torch.randn(8, 2)))).square().sum().backward()
        optimizer.step()
    assert all(
        torch.equal(old, new)
        for old, new in zip(before, model["encoder"].parameters(), strict=True)
    )


def test_without_factors_there_is_one_group_in_the_models_order():
    model = network()
    groups, factors = parameter_groups(model, TrainingConfig())
    assert factors == [1.0]
    assert [id(p) for p in groups[0]["params"]] == [id(p) for p in model.parameters()]


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        (
            {"encodr.*": 0.1},
            r"'encodr\.\*' fits no parameter; their names are such as encoder\.weight, ",
        ),
        ({"encoder": 0.1}, "fits no parameter"),  # the whole name
        ({"*": 0.5, "head.*": 1.0}, "fits only parameters that an earlier pattern takes"),
        ({"head.*": -1.0}, "must be 0 or more, got -1.0"),
        ({"head.*": float("nan")}, "must be 0 or more"),
    ],
)
def test_wrong_factors_are_named(factors, message):
    with pytest.raises(InputError, match=message):
        parameter_groups(network(), TrainingConfig(lr_factors=factors))
