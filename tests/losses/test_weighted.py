import pytest
import torch

from kanseg.losses import LOSSES, LossInputs, WeightedLoss
from kanseg.losses.weighted import RANGES
from kanseg.utils.errors import InputError

TASKS = {"binary": 1, "multiclass": 4, "multilabel": 3}  # task -> logits
SMOOTH = ("ce", "dice", "jaccard", "tversky", "focal", "boundary", "cldice")
OPTIONS = {
    "tversky": {"alpha": 0.3, "beta": 0.7, "gamma": 0.75},
    "focal": {"gamma": 1.5},
    "dice": {"smooth": 1.0},
}
WEIGHTS = {"binary": [0.5, 2.0], "multiclass": [0.2, 1.0, 3.0, 1.5], "multilabel": [0.2, 1.0, 3.0]}


def batch(task, size=(6, 7), ignored=0.2, count=2):
    """Random logits and targets of a task; of a multilabel one each class ignores other pixels."""
    classes = TASKS[task]
    shape = (count, classes, *size) if task == "multilabel" else (count, *size)
    target = torch.randint(2 if task != "multiclass" else classes, shape)
    target[torch.rand(shape) < ignored] = 255
    return torch.randn(count, classes, *size), target


def ignored_of(target, logits):
    return (target == 255) if target.ndim == 4 else (target == 255).unsqueeze(1).expand_as(logits)


def target_signs(task, target):
    """+1 where a class is, -1 elsewhere: logits of a perfect prediction."""
    if task == "multiclass":
        return 2.0 * torch.nn.functional.one_hot(target, 4).permute(0, 3, 1, 2) - 1
    return 2.0 * target.view(len(target), -1, *target.shape[-2:]) - 1


def gradient(loss, logits, target):
    logits = logits.clone().requires_grad_()
    value = loss(logits, target)
    value.backward()
    return value.detach(), logits.grad


@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", list(LOSSES))
class TestEveryLoss:
    def loss(self, name, task, weighted):
        return WeightedLoss(
            {name: 1.0},
            task,
            options={name: OPTIONS.get(name, {})},
            class_weights=WEIGHTS[task] if weighted else None,
        )

    def test_ignored_pixels_have_no_part_in_value_and_gradient(self, name, task, weighted):
        loss = self.loss(name, task, weighted)
        logits, target = batch(task)
        value, slope = gradient(loss, logits, target)
        ignored = ignored_of(target, logits)
        changed = torch.where(ignored, logits + 50 * torch.randn_like(logits), logits)
        other, other_slope = gradient(loss, changed, target)
        assert slope[ignored].abs().max() == 0
        torch.testing.assert_close(other, value)
        torch.testing.assert_close(other_slope, slope)

    def test_ignored_pixels_are_as_good_as_not_there(self, name, task, weighted):
        """An image with an ignored right half costs what its left half costs."""
        loss = self.loss(name, task, weighted)
        logits, target = batch(task, ignored=0)
        target[..., 4:] = 255
        torch.testing.assert_close(loss(logits, target), loss(logits[..., :4], target[..., :4]))

    def test_a_perfect_prediction_costs_nothing_and_the_gradient_leads_there(
        self, name, task, weighted
    ):
        loss = self.loss(name, task, weighted)
        logits, target = batch(task, ignored=0)
        signs = target_signs(task, target)
        assert loss(50 * signs, target) < 1e-4
        _, slope = gradient(loss, logits, target)
        assert (slope * signs).sum() < 0

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
    @pytest.mark.slow_except("torch.float16")
    def test_half_precision_logits_give_a_finite_float32_loss_and_gradient(
        self, name, task, weighted, dtype
    ):
        logits, target = batch(task, size=(260, 260), count=1)  # more pixels than float16 counts
        value, slope = gradient(self.loss(name, task, weighted), (logits * 20).to(dtype), target)
        assert value.dtype == torch.float32
        assert torch.isfinite(value)
        assert torch.isfinite(slope).all()

    def test_extreme_logits_give_a_finite_loss_and_gradient(self, name, task, weighted):
        logits, target = batch(task)
        value, slope = gradient(self.loss(name, task, weighted), logits.sign() * 1e4, target)
        assert torch.isfinite(value)
        assert torch.isfinite(slope).all()

    def test_a_batch_without_a_pixel_that_counts_costs_0_with_gradient_0(
        self, name, task, weighted
    ):
        logits, target = batch(task)
        value, slope = gradient(
            self.loss(name, task, weighted), logits, torch.full_like(target, 255)
        )
        assert value == 0
        assert slope.abs().max() == 0

    def test_a_target_without_foreground_is_finite(self, name, task, weighted):
        logits, target = batch(task)
        value, slope = gradient(self.loss(name, task, weighted), logits, torch.zeros_like(target))
        assert torch.isfinite(value)
        assert torch.isfinite(slope).all()

    def test_the_order_of_the_images_does_not_matter(self, name, task, weighted):
        loss = self.loss(name, task, weighted)
        logits, target = batch(task)
        torch.testing.assert_close(loss(logits.flip(0), target.flip(0)), loss(logits, target))


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", SMOOTH)
def test_gradients_are_those_of_finite_differences(name, task):
    logits, target = batch(task, size=(3, 4))
    weights = torch.tensor(WEIGHTS[task], dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda x: LOSSES[name](LossInputs(x, target, task, weights), **OPTIONS.get(name, {})),
        logits.double().requires_grad_(),
    )


@pytest.mark.parametrize("name", list(LOSSES))
class TestTasksAgree:
    def test_one_label_is_a_binary_task(self, name):
        logits, target = batch("binary")
        options = {name: OPTIONS.get(name, {})}
        single = WeightedLoss({name: 1.0}, "multilabel", options=options)(
            logits, target.unsqueeze(1)
        )
        torch.testing.assert_close(
            single, WeightedLoss({name: 1.0}, "binary", options=options)(logits, target)
        )

    def test_two_classes_are_a_binary_task(self, name):
        """Those of overlap and of boundaries look at the foreground alone: with no weight on the
        background the two agree.
        """
        logits, target = batch("binary")
        two = torch.cat([torch.zeros_like(logits), logits], dim=1)
        weights = [0.3, 0.7] if name in ("ce", "focal") else [0.0, 1.0]
        binary, multiclass = (
            WeightedLoss({name: 1.0}, task, class_weights=weights)
            for task in ("binary", "multiclass")
        )
        torch.testing.assert_close(binary(logits, target), multiclass(two, target))


def test_weights_add_up():
    logits, target = batch("multiclass")
    parts = [WeightedLoss({name: 1}, "multiclass")(logits, target) for name in ("ce", "dice")]
    torch.testing.assert_close(
        WeightedLoss({"ce": 0.5, "dice": 2}, "multiclass")(logits, target),
        0.5 * parts[0] + 2 * parts[1],
    )


def test_outputs_of_deep_supervision_count_by_their_weights():
    logits, target = batch("multiclass")
    outputs = [logits, 2 * logits, -logits]
    each = [WeightedLoss({"ce": 1}, "multiclass")(output, target) for output in outputs]
    loss = WeightedLoss({"ce": 1}, "multiclass", supervision=[2.0, 1.0, 0.0])
    torch.testing.assert_close(loss(outputs, target), (2 * each[0] + each[1]) / 3)
    with pytest.raises(InputError, match="3 weights, .* 1 output"):
        loss(logits, target)


def test_every_option_has_a_range():
    import inspect

    options = {
        p.name
        for name in LOSSES
        for p in inspect.signature(LOSSES[name]).parameters.values()
        if p.kind is p.KEYWORD_ONLY
    }
    assert options == {name for name in RANGES if "." not in name}


@pytest.mark.parametrize(
    "weights",
    [
        {},
        {"cross": 1.0},
        {"ce": -1.0, "dice": 2.0},
        {"ce": 0.0},
        {"ce": float("nan")},
        {"ce": float("inf")},
    ],
)
def test_unknown_losses_are_named(weights):
    with pytest.raises(InputError, match="training.loss .*dice"):
        WeightedLoss(weights, "binary")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"options": {"tversky": {"alhpa": 0.3}}}, "no option 'alhpa'; did you mean 'alpha'"),
        ({"options": {"tversky": {"gamma": 0}}}, "tversky.gamma must be a number from 0.01"),
        ({"options": {"tversky": {"alpha": "0.3"}}}, "must be a number"),
        ({"options": {"tversky": {"alpha": True}}}, "must be a number"),
        ({"options": {"focal": {"gamma": 2.0}}}, "'focal' is not in training.loss"),
        ({"options": {"lovasz": {"gamma": 2.0}}}, "lovasz has no option 'gamma' .*none"),
        ({"class_weights": [0.0, 0.0]}, "class_weights must be 0 or more"),
        ({"class_weights": []}, "class_weights must be 0 or more"),
        ({"class_weights": [1.0, -1.0]}, "class_weights must be 0 or more"),
        ({"supervision": [0.0]}, "supervision must be 0 or more"),
    ],
)
def test_settings_that_make_no_sense_are_told(options, message):
    with pytest.raises(InputError, match=message):
        WeightedLoss({"tversky": 1.0, "lovasz": 1.0}, "multiclass", **options)


def test_alpha_of_several_classes_is_refused_and_points_to_class_weights():
    with pytest.raises(InputError, match="focal.alpha .* training.class_weights"):
        WeightedLoss({"focal": 1.0}, "multiclass", options={"focal": {"alpha": 0.25}})


def test_autocast_does_not_reach_into_a_loss():
    logits, target = batch("multiclass")
    loss = WeightedLoss(dict.fromkeys(LOSSES, 1.0), "multiclass")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(loss(logits, target), loss(logits, target), rtol=0, atol=0)
        inside = loss(logits, target)
    torch.testing.assert_close(inside, loss(logits, target), rtol=0, atol=0)
