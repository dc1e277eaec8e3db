import math

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from kanseg.config import TrainingConfig
from kanseg.training.optim.lr_scheduler import (
    SCHEDULES,
    PlateauState,
    create_lr_scheduler,
    create_schedule,
    current_lr,
    warmup_cosine,
)
from kanseg.training.optim.optimizers import create_optimizer, parameter_groups

TOTAL = 40
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
