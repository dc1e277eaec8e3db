"""A network on a data set -> metrics; the same numbers for any batch size and number of processes."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm

from kanseg.data import SegmentationDataset
from kanseg.data.images import image_mode
from kanseg.metrics import SegmentationMetrics, predicted_classes


@torch.no_grad()
def evaluate(
    model: nn.Module, dataset: SegmentationDataset, accelerator: Accelerator, *, batch_size: int = 8, workers: int = 0, title: str = "evaluate"
) -> SegmentationMetrics:
    """Predict every sample of the dataset and compare it with its mask at the size that the network sees.

    Each process takes every n-th sample, so no sample is counted twice; every process gets the whole result.
    """
    model = accelerator.unwrap_model(model)
    was_training = model.training
    model.eval()
    mine = list(range(accelerator.process_index, len(dataset), accelerator.num_processes))
    # Pictures of different sizes cannot share a batch, and padding them would change their predictions.
    size = batch_size if dataset.preprocess.resize or one_size(dataset) else 1
    loader = DataLoader(Subset(dataset, mine), batch_size=size, num_workers=workers, generator=torch.Generator())
    metrics = SegmentationMetrics(dataset.info.classes)
    for batch in tqdm(loader, desc=title, leave=False, disable=None if accelerator.is_main_process else True):
        with accelerator.autocast():
            logits = model(batch["image"].to(accelerator.device))
        metrics.update(predicted_classes(logits.float()), batch["mask"].to(accelerator.device), batch["index"].tolist())
    model.train(was_training)
    if accelerator.num_processes > 1:
        for other in gather_object([metrics.by_picture]):
            metrics.merge(other)
    return metrics


def one_size(dataset: SegmentationDataset) -> bool:
    """Whether all pictures have the same size, by their headers."""
    return len({image_mode(sample.image)[1] for sample in dataset.samples}) <= 1
