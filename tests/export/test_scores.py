import numpy as np
import pytest
import torch

from kanseg.data import LabelSpec, Preprocess, Sample, write_png
from kanseg.export.scores import mean_iou

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_a_network_that_is_right_everywhere_scores_one(task, tmp_path):
    label = RNG.integers(0, 2, (8, 9), dtype=np.uint8)
    write_png(tmp_path / "a.png", np.stack([255 * label, 255 - 255 * label, 0 * label], axis=2))
    masks = (label, 1 - label) if task == "multilabel" else (1 - label,)
    for index, mask in enumerate(masks):
        write_png(tmp_path / f"mask_{index}.png", mask)
    paths = tuple(tmp_path / f"mask_{index}.png" for index in range(len(masks)))
    sample = Sample("a", tmp_path / "a.png", paths if task == "multilabel" else paths[0])
    label_spec = LabelSpec(task, ("a", "b"), {0: 0, 1: 1})
    description = {
        "labels": {"task": task, "classes": ["a", "b"], "palette": [[0, 0, 0], [9, 9, 9]]}
    }
    network = torch.nn.Conv2d(3, 2, 1)
    torch.nn.init.zeros_(network.bias)
    network.weight.data = torch.eye(3)[:2, :, None, None]
    assert mean_iou(network.eval(), Preprocess(3), description, [sample], label_spec) == 1
