"""Typed settings of an experiment: data, model, training."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Literal, Union

import yaml

# A value in YAML. Not `Any`, for which jsonargparse would import and call the class that a
# `class_path` names.
Value = Union[None, bool, int, float, str, list, dict]  # noqa: UP007 - evaluated by jsonargparse on Python 3.10 too


def as_pair(value: list | float | None) -> list | None:
    """Return a setting of two numbers as a list: 256 -> [256, 256]."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return [value, value]
    return value


@dataclass
class DataConfig:
    """The data set of a segmentation experiment, and how its images are read.

    Args:
        root: folder of the data set (data/README.md describes the layouts).
        format: layout of the data set: folder, coco, voc, labelme, yolo, label_studio or nnunet;
            auto detects it.
        prepare: name of a built-in data set that is written to root first ("blue_marble").
        task: "binary", "multiclass" or "multilabel"; by default from dataset.yaml or from the
            masks.
        classes: names of the classes, the background first (multilabel: without a background).
        mask_values: value in the mask file -> class index.
        ignore_index: mask value of pixels that loss and metrics ignore.
        palette: an [r, g, b] per class, or voc for the colors of PASCAL VOC.
        train: splits to train on.
        val: splits that select the best weights; empty for none (then the last weights are the
            best).
        test: splits that are measured once, at the end; empty for none.
        split_seed: seed of the 70/15/15 split if there are no split files, and of the folds.
        folds: number of folds of a cross-validation over train and val together, by group if
            there is a groups.csv; 0 for none.
        fold: the fold, from 0 to folds - 1, that is val; the others are train. The option
            --all_folds trains every fold.
        channels: channels of the network's input (1 gray, 3 RGB, or the number of bands).
        resize: [height, width] that images are scaled to, in training and in prediction; a single
            number is a square.
        interpolation: how images are scaled: "linear", or "area", which averages pixels; that
            removes aliasing, but also fine texture.
        crop: [height, width] of random crops in training; prediction then uses tiles of this size,
            but by default of at least 512 a side.
        oversample_foreground: share of the random crops that are centered on a pixel of a class
            drawn uniformly from the foreground classes in the image; 0 for crops anywhere.
        gamma: exponent on the values in [0, 1] before normalization; 0.5 brightens dark images.
        mean: per channel; by default that of the images that a pretrained encoder was trained on
            (model.encoder_weights), or of the training images.
        std: per channel; by default as the mean.
        augment: transforms of albumentations, `- Name: {option: value}`, or of torchvision (v2),
            `- torchvision.Name: {option: value}`; [] for none. "auto" mirrors every other image
            left to right.
        skip_bad: skip faulty samples instead of stopping.
        max_pixels: larger images are refused as decompression bombs.
        spacing: [row, column] distance of neighboring pixels, in a unit such as mm; surface
            distances have this unit.
        workers: processes that read images; results do not depend on their number.
    """

    root: str = "data"
    format: Literal[
        "auto", "folder", "coco", "voc", "labelme", "yolo", "label_studio", "nnunet"
    ] = "auto"
    prepare: str | None = None
    task: str | None = None
    classes: list[str] | None = None
    mask_values: dict[int, int] | None = None
    ignore_index: int | None = None
    palette: list[list[int]] | Literal["voc"] | None = None
    train: list[str] = field(default_factory=lambda: ["train"])
    val: list[str] = field(default_factory=lambda: ["val"])
    test: list[str] = field(default_factory=lambda: ["test"])
    split_seed: int = 0
    folds: int = 0
    fold: int = 0
    channels: int = 3
    resize: list[int] | int | None = None
    interpolation: Literal["linear", "area"] = "linear"
    crop: list[int] | int | None = None
    oversample_foreground: float = 0.0
    gamma: float = 1.0
    mean: list[float] | None = None
    std: list[float] | None = None
    augment: list[dict[str, dict[str, Value]] | str] | Literal["auto"] = "auto"
    skip_bad: bool = False
    max_pixels: int = 2**29
    spacing: list[float] | float | None = None
    workers: int = 2

    def __post_init__(self) -> None:
        self.resize = as_pair(self.resize)
        self.crop = as_pair(self.crop)
        self.spacing = as_pair(self.spacing)


@dataclass
class ModelConfig:
    """The network: arguments of `kanseg.create_model`.

    Args:
        name: one of kanseg.list_models(), a segmentation network or a classifier as the experiment
            needs.
        basis: one of kanseg.list_bases(); "none" is the same network of plain convolutions.
        stem: the first convolution: "auto" (B-splines of the colors), null (like all others) or
            the options in which it differs.
        match: "params" or "macs": solve the width so that the network is as large as `like` (then
            options.width is that of `like`).
        like: arguments in which the network to match differs: the baseline of an experiment with
            basis gram has basis none, match params, like {basis: gram}.
        encoder: another encoder under the decoder of unet or ukanet_*: a name of
            segmentation_models.pytorch (resnet34), of timm (tu-convnext_tiny) or of kanseg; null
            for the network's own encoder.
        encoder_weights: pretrained weights of the encoder: imagenet or another name that its
            library has, a file, a folder or training run, or user/name of the hub. They are
            downloaded unless they are on this computer. null for random weights.
        start_from: checkpoint (or run folder) of a network of the same options whose weights the
            training begins with; a pruned network keeps its sizes. null for new weights.
        options: width, depth, inner_channels, degree, grid_size, norm, ...; of another encoder
            encoder_depth and encoder_options.
    """

    name: str = "unet"
    basis: str = "gram"
    stem: Literal["auto"] | dict[str, Value] | None = "auto"
    match: Literal["params", "macs"] | None = None
    like: dict[str, Value] | None = None
    encoder: str | None = None
    encoder_weights: str | None = None
    start_from: str | None = None
    options: dict[str, Value] = field(default_factory=dict)


@dataclass
class ClassificationData:
    """The data set of a classification experiment, and how its images are read.

    Args:
        root: folder of the data set, or an .npz file (data/README.md describes the layouts).
        format: layout of the data set: auto, folder, npz, mnist, fashion_mnist, cifar10, cifar100,
            cifar10_jpeg, tiny_imagenet, digits.
        download: download a set of torchvision if it is not in root; otherwise nothing is
            downloaded.
        train: splits to train on.
        val: splits that select the best weights, taken from train if the set has no val; empty for
            none (then the last weights are the best).
        test: splits that are measured once, at the end; empty for none.
        val_share: share of train that becomes val.
        split_seed: seed of that split, and of the folds.
        folds: number of folds of a cross-validation over train and val together, each with images
            of every class; 0 for none.
        fold: the fold, from 0 to folds - 1, that is val; the others are train.
        limit: number of training images, balanced over the classes; null for all.
        channels: channels of the network's input (1 gray, 3 RGB).
        resize: [height, width] that images are scaled to; a single number is a square.
        interpolation: how images are scaled: "linear", or "area", which averages pixels; that
            removes aliasing, but also fine texture.
        gamma: exponent on the values in [0, 1] before normalization.
        mean: per channel; by default that of the images that a pretrained encoder was trained on
            (model.encoder_weights), or of the training images.
        std: per channel; by default as the mean.
        augment: torchvision transforms (v2), `- Name: {option: value}` or `- Name`; [] for none.
            "auto" mirrors every other image left to right, unless all classes have names of one
            character: digits and letters.
        workers: processes that read images; results do not depend on their number.
    """

    root: str = "data"
    format: str = "auto"
    download: bool = False
    train: list[str] = field(default_factory=lambda: ["train"])
    val: list[str] = field(default_factory=lambda: ["val"])
    test: list[str] = field(default_factory=lambda: ["test"])
    val_share: float = 0.1
    split_seed: int = 0
    folds: int = 0
    fold: int = 0
    limit: int | None = None
    channels: int = 3
    resize: list[int] | int | None = None
    interpolation: Literal["linear", "area"] = "linear"
    gamma: float = 1.0
    mean: list[float] | None = None
    std: list[float] | None = None
    augment: list[dict[str, dict[str, Value]] | str] | Literal["auto"] = "auto"
    workers: int = 2

    def __post_init__(self) -> None:
        self.resize = as_pair(self.resize)


@dataclass
class _Training:
    """How a network is trained.

    Args:
        epochs: passes over the training images.
        batch_size: images per step and process.
        penalty: weight of each penalty added to the loss, of weights_l1, activations_l1 and
            activations_l2 (means over the weights of the functions and over the outputs of the KAN
            layers, summed over the layers), balance (how unevenly the experts of
            model.options.experts are used) and elbo (minus the evidence lower bound of vae_kan's
            autoencoder, in nats per value).
        optimizer: adamw, sgd, lion, or lbfgs (which needs large batches, or one of all images).
        optimizer_options: options of the optimizer, such as {momentum: 0.9, nesterov: true} or
            {max_iter: 20, history_size: 10}.
        lr: peak learning rate.
        lr_factors: pattern of parameter names -> factor on their lr, such as {"encoder.*": 0.1};
            the first pattern that matches counts, and 0 freezes the weights. Without any, the
            encoder has 0.1 times the lr if model.encoder_weights is set.
        freeze_encoder_epochs: first epochs in which the encoder is not trained, and its norms are
            in evaluation mode; null for 2 if model.encoder_weights is set, and 0 otherwise.
        function_lr: factor on lr for the coefficients of the functions, on top of lr_factors; null
            for 10 if a channel or a layer shares its functions, and 1 if each edge has its own.
            (lbfgs has one learning rate for all.)
        function_decay: whether weight decay applies to these coefficients; null for no if functions
            are shared, and yes if each edge has its own.
        weight_decay: of the optimizer.
        schedule: learning rate after the warm-up: cosine, poly, one_cycle, step, constant or
            plateau.
        schedule_options: options of the schedule, such as {power: 0.9}, {milestones: [0.5, 0.75],
            gamma: 0.1} or, of plateau, {factor: 0.5, patience: 5, min_factor: 0.01}.
        warmup: share of the steps in which the learning rate rises linearly.
        ema: decay per step of an exponential moving average of the weights, which is then
            validated and stored as best; 0 for none.
        update_grid_epochs: epochs, counted from 1, such as [2, 4]. Before their first step the
            grids of all B-spline and rbf layers are fitted to the layers' inputs, and the functions
            are refitted to keep their values there. The optimizer's moments of these weights are
            reset. None by default.
        refine: train from coarse to fine: epoch, counted from 1 -> grid_size or degree, such as
            {11: {grid_size: 6}, 21: {grid_size: 12}}. At the start of the epoch the B-spline layers
            with fewer intervals, or the polynomial layers of a lower degree, are refined without
            changing what the network computes. The optimizer's moments of these weights are reset.
            None by default.
        accumulate: batches whose gradients are accumulated for one step.
        clip: largest norm of the gradient; null for no limit.
        precision: "no" (float32), "bf16" or "fp16" for convolutions; bases and losses stay in
            float32. By default that of `accelerate launch --mixed_precision`, or float32.
        compile: run the network under torch.compile (needs a C++ compiler on the CPU).
        find_batch_size: if a batch does not fit into memory, halve batch_size and double
            accumulate until it does.
        validate_every: epochs between validations.
        patience: validations without an improvement of `monitor` after which the training stops; 0
            trains all epochs.
        save_every: optimizer steps between checkpoints; 0 for one per epoch only.
        keep: number of checkpoints that are kept.
        log_every: optimizer steps between lines of log.jsonl.
        monitor: the validation metric that selects the best weights.
        report: draw report.html and its figures at the end; false for quick trials.
        panels: samples drawn as images at the end.
        tensorboard: write TensorBoard events to the run folder, if TensorBoard is installed.
        wandb: log to Weights & Biases too: no, offline (files in the run folder) or online.
        project: of Weights & Biases.
        log_images: samples of val that are drawn for TensorBoard and Weights & Biases at every
            validation (of segmentation); 0 for none.
        log_health: measure the functions of every KAN layer on two training images when a
            validation is due, and warn about layers that need a change: share of the inputs off the
            grid and in the flat part of the domain map, functions that do not vary or are nearly
            lines.
        threads: CPU threads of torch; 0 for torch's default.
    """

    epochs: int = 50
    batch_size: int = 8
    penalty: dict[str, float] = field(default_factory=dict)
    optimizer: str = "adamw"
    optimizer_options: dict[str, Value] = field(default_factory=dict)
    lr: float = 1e-3
    lr_factors: dict[str, float] = field(default_factory=dict)
    freeze_encoder_epochs: int | None = None
    function_lr: float | None = None
    function_decay: bool | None = None
    weight_decay: float = 1e-4
    schedule: str = "cosine"
    schedule_options: dict[str, Value] = field(default_factory=dict)
    warmup: float = 0.3
    ema: float = 0.0
    update_grid_epochs: list[int] = field(default_factory=list)
    refine: dict[int, dict[str, int]] = field(default_factory=dict)
    accumulate: int = 1
    clip: float | None = 1.0
    precision: Literal["no", "bf16", "fp16"] | None = None
    compile: bool = False
    find_batch_size: bool = False
    validate_every: int = 1
    patience: int = 0
    save_every: int = 0
    keep: int = 2
    log_every: int = 10
    monitor: str = "foreground_iou"
    report: bool = True
    panels: int = 8
    tensorboard: bool = True
    wandb: Literal["no", "offline", "online"] = "no"
    project: str = "kanseg"
    log_images: int = 4
    log_health: bool = True
    threads: int = 0


@dataclass
class TrainingConfig(_Training):
    """How a segmentation network is trained.

    Args:
        loss: weight of each loss, of ce (binary and multilabel: BCE), dice, jaccard, tversky,
            focal, lovasz, boundary, cldice.
        loss_options: options of a loss, such as {tversky: {alpha: 0.3, beta: 0.7}, focal: {gamma:
            2.0}}.
        class_weights: a number per class (binary: of background and foreground), "balanced"
            (inversely proportional to the pixels in the training set) or "median" (median frequency
            balancing); null for equal weights.
        supervision: weight of each output of a network with deep supervision, that of the final
            output first; null for equal weights.
        surface: measure HD95 and normalized surface Dice at the end of a run.
        tolerance: of the normalized surface Dice, in pixels, or in the unit of data.spacing.
    """

    loss: dict[str, float] = field(default_factory=lambda: {"ce": 0.5, "dice": 1.0})
    loss_options: dict[str, dict[str, Value]] = field(default_factory=dict)
    class_weights: list[float] | Literal["balanced", "median"] | None = None
    supervision: list[float] | None = None
    surface: bool = True
    tolerance: float = 2.0


@dataclass
class ClassificationTraining(_Training):
    """How a classifier is trained.

    Args:
        label_smoothing: share of the target that is spread over all classes.
        mixup: alpha of mixup (Beta distribution); 0 for none.
        cutmix: alpha of cutmix; 0 for none. With both, each batch draws one of them.
    """

    batch_size: int = 64
    monitor: str = "top1"
    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0


@dataclass
class _Experiment:
    """One experiment.

    Args:
        run_dir: folder for all files of the run.
        seed: of weights, sample order and augmentation.
    """

    run_dir: str = "runs/run"
    seed: int = 0

    def to_yaml(self) -> str:
        """The complete settings; `from_yaml` reads them back equal."""
        return yaml.safe_dump(asdict(self), sort_keys=False, allow_unicode=True)

    @classmethod
    def from_yaml(cls, text: str):
        """Read settings from YAML; keys that are missing have their default.

        Raises:
            InputError: unknown keys, wrong types.
        """
        from kanseg.config.parser import from_yaml

        return from_yaml(cls, text)


@dataclass
class Config(_Experiment):
    """A segmentation experiment.

    Args:
        data: the images.
        model: the network.
        training: the training.
    """

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)


@dataclass
class ClassificationConfig(_Experiment):
    """A classification experiment.

    Args:
        data: the images.
        model: the network.
        training: the training.
    """

    data: ClassificationData = field(default_factory=ClassificationData)
    model: ModelConfig = field(default_factory=lambda: ModelConfig(name="simple_kan_4"))
    training: ClassificationTraining = field(default_factory=ClassificationTraining)
