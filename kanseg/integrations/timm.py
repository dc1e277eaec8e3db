"""Our encoders in timm, registered by importing this module.

The names are `kanseg_NAME_BASIS` for each encoder and basis ("kanseg_ukanet_18_gram"), and
`kanseg_NAME` for the default basis. They are classifiers, or encoders with `features_only=True`,
and accept options: `timm.create_model("kanseg_ukanet_18_gram", features_only=True, width=8,
degree=4)`. In segmentation_models.pytorch they are called `tu-kanseg_NAME_BASIS`.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from kanseg.encoders import ENCODERS
from kanseg.models import create_encoder, list_bases, list_encoders

try:
    from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
    from timm.layers import ClassifierHead
    from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
    from timm.models._features import FeatureListNet, feature_take_indices
except ModuleNotFoundError as error:
    raise ImportError("kanseg.integrations.timm needs timm: python -m pip install timm") from error

DEFAULT_BASIS = "gram"


class TimmModel(nn.Module):
    """An encoder with timm's head: (B, C, H, W) -> raw logits (B, num_classes), any H and W.

    Args:
        encoder: one of `kanseg.list_encoders()`.
        in_chans: C.
        num_classes: number of logits; 0 for the pooled features themselves.
        global_pool: timm's name of a pooling ("avg", "max", ...), "" for none.
        drop_rate: dropout before the last layer.
        output_stride: 32, or 16 or 8 for a dilated encoder.
        options: options of `kanseg.create_encoder`; the default depth is 5 for encoders of any
            depth.
    """

    def __init__(
        self,
        encoder: str,
        *,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        output_stride: int = 32,
        **options: object,
    ):
        super().__init__()
        if isinstance(inspect.signature(ENCODERS[encoder]).parameters["depth"].default, int):
            options.setdefault("depth", 5)
        pyramid = create_encoder(encoder, in_chans, **options)
        if output_stride != 32:
            pyramid.make_dilated(output_stride)
        # timm takes the features from the entries of a Sequential
        self.stages = nn.Sequential(*pyramid.stages)
        levels = range(int(pyramid.begins_with_image), pyramid.depth + 1)
        self.feature_info = [
            {
                "num_chs": pyramid.out_channels[i],
                "reduction": min(2**i, pyramid.output_stride),
                "module": f"stages.{i}",
            }
            for i in levels
        ]
        self.grad_checkpointing = False
        self.num_classes = num_classes
        self.num_features = self.head_hidden_size = pyramid.out_channels[-1]
        self.head = ClassifierHead(
            self.num_features, num_classes, pool_type=global_pool, drop_rate=drop_rate
        )

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Enable gradient checkpointing: keep only the inputs of the stages for backward.

        It saves memory for a third more time. Batch norms update their statistics twice per batch,
        as for all checkpointed timm models.
        """
        self.grad_checkpointing = enable

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Patterns that group the parameters by depth, for layer-wise learning rate decay: stage 0,
        each block of the other stages (each stage with `coarse`), and the head.
        """
        blocks = r"^stages\.(\d+)" if coarse else r"^stages\.(\d+)\.(\d+)"
        return {"stem": r"^stages\.0", "blocks": blocks}

    def get_classifier(self) -> nn.Module:
        """The last layer."""
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the last layer, for another number of classes."""
        self.num_classes = num_classes
        self.head.reset(num_classes, pool_type=global_pool)

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the deepest feature."""
        for stage in self.stages:
            x = self._staged(stage, x)
        return x

    def _staged(self, stage: nn.Module, x: Tensor) -> Tensor:
        if self.grad_checkpointing and torch.is_grad_enabled():
            return checkpoint(stage, x, use_reentrant=False)
        return stage(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """The deepest feature -> logits, or with `pre_logits` the input of the last layer."""
        return self.head(x, pre_logits=pre_logits)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """The features with the given indices (an integer for the last ones, None for all), and the
        deepest one unless `intermediates_only`.

        `norm` has no effect, since every layer has its own norm; `stop_early` skips the stages
        after the last requested feature.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt must be 'NCHW', got {output_fmt!r}")
        taken, last = feature_take_indices(len(self.feature_info), indices)
        found, first = [], len(self.stages) - len(self.feature_info)
        for i, stage in enumerate(self.stages, start=-first):
            if i <= last or not stop_early:
                x = self._staged(stage, x)
            if i in taken:
                found.append(x)
        if intermediates_only:
            return found
        return x, found


def _register(name: str, encoder: str, basis: str) -> None:
    def build(pretrained: bool = False, **options: object) -> nn.Module:
        given = {"basis": basis, **options}
        features: dict[str, object] = {"flatten_sequential": True}
        if "out_indices" not in given and "feature_cls" not in given:
            features["feature_cls"] = _all_features
        return build_model_with_cfg(
            partial(TimmModel, encoder), name, pretrained, feature_cfg=features, **given
        )

    build.__name__ = build.__qualname__ = name  # the name in timm's registry
    build.__doc__ = f"The encoder {encoder!r} of kanseg with basis {basis!r}."
    globals()[name] = register_model(build)


def _all_features(model: TimmModel, **config: object) -> FeatureListNet:
    """All features of a model; timm's default of five fails for encoders with fewer."""
    config["out_indices"] = tuple(range(len(model.feature_info)))
    config["flatten_sequential"] = True
    return FeatureListNet(model, **config)


NAMES = {
    f"kanseg_{encoder}{suffix}": (encoder, basis)
    for encoder in list_encoders()
    for suffix, basis in [("", DEFAULT_BASIS), *((f"_{basis}", basis) for basis in list_bases())]
}
CONFIG = {
    "num_classes": 1000,
    "input_size": (3, 224, 224),
    "pool_size": (7, 7),
    "mean": IMAGENET_DEFAULT_MEAN,
    "std": IMAGENET_DEFAULT_STD,
    "first_conv": None,
    "classifier": "head.fc",
    "license": "mit",
}
default_cfgs = generate_default_cfgs(dict.fromkeys(NAMES, CONFIG))
for _name, (_encoder, _basis) in NAMES.items():
    _register(_name, _encoder, _basis)
