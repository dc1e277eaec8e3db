from dataclasses import replace

import pytest
import torch
from torch import nn

from kanseg.config import ClassificationConfig, Config
from kanseg.training.run import TASKS
from kanseg.training.settings import check_settings, make_optimizer
from kanseg.utils.errors import InputError

WRONG = [
    ({"ema": 1.0}, "training.ema must be a decay from 0"),
    ({"ema": -0.1}, "training.ema must be a decay from 0"),
    ({"patience": -1}, "training.patience must be at least 0"),
    ({"log_images": -1}, "training.log_images must be at least 0"),
    ({"schedule": "plato"}, "training.schedule: unknown schedule 'plato'; did you mean 'plateau'"),
    (
        {"schedule": "poly", "schedule_options": {"powr": 2}},
        "training.schedule: schedule poly has no option 'powr'; did you mean 'power'",
    ),
    (
        {"schedule": "plateau", "schedule_options": {"patience": 1.5}},
        "schedule plateau: patience must be a whole number, such as 5, got 1.5",
    ),
    (
        {"schedule": "plateau", "schedule_options": {"factor": 2.0}},
        "schedule plateau: factor must be from 0 to 1, got 2.0",
    ),
    (
        {"schedule": "step", "schedule_options": {"milestones": 3}},
        "milestones must be a list of numbers, such as [0.5, 0.75], got 3",
    ),
    (
        {"schedule": "step", "schedule_options": {"milestones": [30, 60]}},
        "milestones must be from 0 to 1, got [30, 60]",
    ),
    (
        {"optimizer_options": {"betas": 3}},
        (
            "training.optimizer: optimizer adamw: betas must be a list of numbers, such as [0.9,"
            " 0.999], got 3"
        ),
    ),
    ({"optimizer_options": {"betas": [0.9, 1.5]}}, "betas must be from 0 to 1"),
    ({"optimizer_options": {"eps": "small"}}, "eps must be a number, such as 1e-08, got 'small'"),
    (
        {"optimizer": "sgd", "optimizer_options": {"nesterov": 1}},
        "nesterov must be true or false, such as True, got 1",
    ),
    (
        {"optimizer": "lbfgs", "weight_decay": 0.0, "optimizer_options": {"line_search": "armijo"}},
        "line_search must be strong_wolfe or null",
    ),
    (
        {"optimizer": "lbfgs", "weight_decay": 0.0, "lr_factors": {"*": 0.5}},
        "training.lr_factors: lbfgs has one learning rate for all parameters",
    ),
    (
        {"optimizer": "lbfgs", "weight_decay": 0.0, "function_lr": 2.0},
        "training.function_lr: lbfgs has one learning rate for all parameters",
    ),
    ({"function_lr": -1.0}, "training.function_lr must be 0 or more, got -1.0"),
    ({"lr": 1e38}, "training.lr must be at most 1e+30"),
    (
        {"lr_factors": {"decodr.*": 0.5}},
        "training.lr_factors: 'decodr.*' matches no parameter",
    ),
]


@pytest.mark.parametrize("kind", [Config, ClassificationConfig])
@pytest.mark.parametrize(("given", "message"), WRONG, ids=lambda value: str(value)[:40])
def test_wrong_settings_are_named(kind, given, message):
    config = kind()
    config = replace(config, training=replace(config.training, **given))
    with pytest.raises(InputError) as caught:
        check_settings(TASKS[kind](config))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (
            {
                "optimizer": "lbfgs",
                "weight_decay": 0.0,
                "optimizer_options": {"line_search": None, "max_iter": 5},
            },
            {"line_search_fn": None, "max_iter": 5},
        ),
        (
            {"optimizer_options": {"betas": [0.9, 0.99], "eps": 0}},
            {"betas": (0.9, 0.99), "eps": 0, "weight_decay": 1e-4},
        ),
    ],
    ids=["lbfgs", "adamw"],
)
def test_options_at_the_ends_of_their_ranges_reach_the_optimizer(given, expected):
    config = Config()
    settings = replace(config.training, **given)
    check_settings(TASKS[Config](replace(config, training=settings)))
    optimizer = make_optimizer(settings, [{"params": [nn.Parameter(torch.zeros(1))]}])
    (group,) = optimizer.param_groups
    assert {key: group[key] for key in expected} == expected


@pytest.mark.parametrize("name", ["adamw", "sgd", "lion"])
def test_an_optimizer_is_fused_where_it_can_be(name):
    def optimizer(**options):
        weight = nn.Parameter(torch.tensor([1.0, -2.0]))
        weight.grad = torch.tensor([0.5, 3.0])
        settings = replace(Config().training, optimizer=name, optimizer_options=options)
        made = make_optimizer(settings, [{"params": [weight]}], fused=True)
        made.step()
        return made.param_groups[0].get("fused"), weight

    fused, weight = optimizer()
    assert fused is (None if name == "lion" else True)
    if name != "lion":
        chosen, other = optimizer(fused=False)
        assert chosen is None
        torch.testing.assert_close(weight, other)
