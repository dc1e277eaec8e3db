from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from kanseg.layers import Penalty
from kanseg.training.batches import BatchPlan
from kanseg.training.dry_run import dry_run, find_batch_size
from kanseg.training.run import train, use_fitting_batch_size
from kanseg.training.state import TrainState
from kanseg.utils.errors import InputError


class Hungry(nn.Module):
    """Runs out of memory above a number of images."""

    def __init__(
        self,
        limit,
        error="DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.",
    ):
        super().__init__()
        self.limit, self.error, self.seen = limit, error, []
        self.norm, self.drop = nn.BatchNorm2d(3), nn.Dropout(0.5)

    def forward(self, x):
        self.seen.append(len(x))
        y = self.drop(self.norm(x))
        if len(x) > self.limit:
            raise RuntimeError(self.error)
        return y


class Images:
    def __init__(self, count=20, size=(4, 6)):
        self.count, self.size = count, size

    def __len__(self):
        return self.count

    def __getitem__(self, key):
        return {
            "image": torch.ones(3, *self.size),
            "mask": torch.zeros(self.size, dtype=torch.int64),
        }


class MeanTask:
    """The parts of a task that a training step needs."""

    target = "mask"

    def __init__(self, batch_size, accumulate=1):
        self.config = SimpleNamespace(
            training=SimpleNamespace(batch_size=batch_size, accumulate=accumulate)
        )

    def mix(self, images, target, seed):
        return images, target

    def loss(self, output, target):
        return output.mean()


def state_of(model):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    return TrainState(Accelerator(cpu=True), model, optimizer, Penalty(model, {}))


def search(model, batch_size, dataset=None):
    return find_batch_size(state_of(model), MeanTask(batch_size), dataset or Images())


@pytest.mark.parametrize(("limit", "found"), [(8, (8, 1)), (7, (4, 2)), (3, (2, 4)), (1, (1, 8))])
def test_the_largest_half_that_fits_is_found(limit, found):
    assert search(Hungry(limit), 8) == found


def test_nothing_is_left_of_the_trial():
    model = Hungry(2)
    before, state = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    search(model, 8)
    assert model.seen == [8, 4, 2]
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())
    assert all(p.grad is None for p in model.parameters())


def test_no_more_is_tried_than_the_run_will_see():
    model = Hungry(99)
    assert search(model, 64, dataset=Images(5)) == (64, 1)
    assert model.seen == [5]
    assert search(model := Hungry(99), 4, dataset=Images(9)) == (4, 1)
    assert model.seen == [5]  # the one left over joins the batch before it


def test_one_image_that_does_not_fit_is_reported():
    with pytest.raises(InputError, match="one image of 4x6 pixels .*does not fit"):
        search(Hungry(0), 4)


def test_another_error_is_not_taken_for_a_lack_of_memory():
    with pytest.raises(RuntimeError, match="shapes"):
        search(Hungry(0, "shapes do not match"), 4)


def test_the_search_changes_nothing_of_a_run_that_fits(config, tmp_path, capsys):
    config.training.batch_size, config.training.epochs = 2, 1
    train(replace(config, run_dir=str(tmp_path / "plain")))
    searching = replace(config.training, find_batch_size=True)
    train(replace(config, run_dir=str(tmp_path / "searched"), training=searching))
    logs = [(tmp_path / name / "log.jsonl").read_bytes() for name in ("plain", "searched")]
    assert logs[0] == logs[1]
    assert "training.batch_size 2 fits into memory" in capsys.readouterr().out


def test_the_sizes_that_fit_take_the_place_of_the_settings(config):
    task, lines = MeanTask(2), []
    task.config = config
    config.training.batch_size = 2
    use_fitting_batch_size(task, state_of(Hungry(1)), Images(), lines.append)
    assert (task.config.training.batch_size, task.config.training.accumulate) == (1, 2)
    assert config.training.batch_size == 2  # the caller's settings stay as they are
    assert ["2 does not fit" in line for line in lines] == [True]


def test_a_resumed_run_keeps_the_sizes_that_were_found(config, tmp_path):
    config.training.find_batch_size = True
    config.training.batch_size, config.training.accumulate, config.training.epochs = 1, 2, 1
    train(config)
    config.training.batch_size, config.training.accumulate, config.training.epochs = 2, 1, 2
    assert train(config, resume=True)["epochs"] == 2
    text = (tmp_path / "run" / "config.yaml").read_text()
    assert "batch_size: 1\n" in text
    assert "accumulate: 2\n" in text


def deep(norm):
    return nn.Sequential(nn.AvgPool2d(4), norm)


@pytest.mark.parametrize(("norm", "count"), [(nn.BatchNorm2d(3), 1), (nn.InstanceNorm2d(3), 8)])
def test_one_pixel_for_a_norm_is_reported_before_training(norm, count):
    plan = BatchPlan(count, 8, seed=0)
    with pytest.raises(InputError, match="4x4 pixels .*is one pixel at the bottom of the network"):
        dry_run(state_of(deep(norm)), Images(count, (4, 4)), plan)


def test_two_images_are_enough_for_a_batch_norm():
    model = deep(nn.BatchNorm2d(3))
    dry_run(state_of(model), Images(9, (4, 4)), BatchPlan(9, 8, seed=0))
    assert model[1].num_batches_tracked == 0


def test_a_run_that_cannot_train_writes_nothing(config, tmp_path):
    config.data.resize, config.model.options["depth"] = [8, 8], 4
    with pytest.raises(InputError, match="one pixel at the bottom"):
        train(config)
    assert not (tmp_path / "run").exists()
