import math
import sys

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

import kanseg
from kanseg.training.optim.optimizers import (
    OPTIMISERS,
    SCHEDULES,
    create_optimizer,
    create_schedule,
    warmup_cosine,
)
from kanseg.utils.errors import InputError

TOTAL = 40


def torchs_factors(scheduler, **options):
    """Learning rates over TOTAL steps, as shares of the peak of 1, of one of PyTorch's own
    schedulers.
    """
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = scheduler(optimizer, **options)
    factors = []
    for _ in range(TOTAL):
        factors.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return factors


@pytest.mark.parametrize(
    ("name", "options", "scheduler", "theirs"),
    [
        ("cosine", {"warmup": 0.0}, lr_scheduler.CosineAnnealingLR, {"T_max": TOTAL}),
        ("poly", {"warmup": 0.0}, lr_scheduler.PolynomialLR, {"total_iters": TOTAL, "power": 0.9}),
        (
            "poly",
            {"warmup": 0.0, "power": 2.0},
            lr_scheduler.PolynomialLR,
            {"total_iters": TOTAL, "power": 2.0},
        ),
        ("step", {"warmup": 0.0}, lr_scheduler.MultiStepLR, {"milestones": [20, 30]}),
        (
            "step",
            {"warmup": 0.0, "milestones": [0.1, 0.35], "gamma": 0.5},
            lr_scheduler.MultiStepLR,
            {"milestones": [4, 14], "gamma": 0.5},
        ),
        (
            "one_cycle",
            {"warmup": 0.3},
            lr_scheduler.OneCycleLR,
            {"max_lr": 1.0, "total_steps": TOTAL, "cycle_momentum": False},
        ),
        (
            "one_cycle",
            {"warmup": 0.1},
            lr_scheduler.OneCycleLR,
            {"max_lr": 1.0, "total_steps": TOTAL, "cycle_momentum": False, "pct_start": 0.1},
        ),
        ("constant", {"warmup": 0.0}, lr_scheduler.ConstantLR, {"factor": 1.0}),
        (
            "constant",
            {"warmup": 0.25},
            lr_scheduler.LinearLR,
            {"start_factor": 0.04, "total_iters": 10},
        ),
    ],
)
def test_schedules_are_pytorchs(name, options, scheduler, theirs):
    factor = create_schedule(name, total=TOTAL, **options)
    assert [factor(step) for step in range(TOTAL)] == pytest.approx(
        torchs_factors(scheduler, **theirs), abs=1e-6
    )


@pytest.mark.parametrize("name", [name for name in SCHEDULES if name != "one_cycle"])
def test_all_rise_alike(name):
    factor = create_schedule(name, total=100, warmup=0.2)
    assert [factor(step) for step in range(20)] == pytest.approx(
        [0.04 + 0.96 * step / 20 for step in range(20)]
    )
    assert factor(20) == 1.0


@pytest.mark.parametrize("name", list(SCHEDULES))
@pytest.mark.parametrize("total", [1, 2, 7])
@pytest.mark.parametrize("warmup", [0.0, 0.5, 1.0])
def test_factors_are_shares_of_the_peak_whatever_the_length(name, total, warmup):
    factor = create_schedule(name, total=total, warmup=warmup)
    assert all(0 <= factor(step) <= 1 for step in range(total + 2))


def test_the_cosine_is_the_formula():
    for step in range(10, 41):
        assert warmup_cosine(step, total=40, warmup=0.25) == pytest.approx(
            0.5 + 0.5 * math.cos(math.pi * (step - 10) / 30)
        )


def test_a_schedule_drives_a_group_with_its_own_rate():
    parameters = [nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))]
    optimizer = create_optimizer(
        "adamw", [{"params": parameters[:1]}, {"params": parameters[1:], "lr": 1e-3}], lr=1e-2
    )
    schedule = lr_scheduler.LambdaLR(optimizer, create_schedule("constant", total=10, warmup=0.5))
    assert schedule.get_last_lr() == pytest.approx([0.04e-2, 0.04e-3])


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


@pytest.mark.parametrize("name", list(OPTIMISERS))
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


def test_lion_without_timm_tells_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm.optim", None)
    with pytest.raises(InputError, match="pip install 'timm"):
        create_optimizer("lion", [nn.Parameter(torch.zeros(1))], lr=0.1)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cosin", {}, "unknown schedule 'cosin'; did you mean 'cosine'"),
        ("poly", {"powr": 2}, "schedule poly has no option 'powr'; did you mean 'power'"),
        ("cosine", {"total": 0}, "at least 1 step"),
        ("cosine", {"warmup": 1.5}, "share from 0 to 1"),
    ],
)
def test_wrong_schedules_are_named(name, options, message):
    with pytest.raises(ValueError, match=message):
        create_schedule(name, **({"total": 10, "warmup": 0.1} | options))
