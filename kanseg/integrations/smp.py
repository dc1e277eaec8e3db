"""Our encoders in segmentation_models.pytorch: importing this file registers them all.

`kanseg-NAME-BASIS` for each encoder and basis ("kanseg-ukanet_18-gram"), `kanseg-NAME` for the
default basis. SMP passes no options on to an encoder: `register` gives those with other options a
name.
"""

from __future__ import annotations

from torch import Tensor, nn

from kanseg.models import create_encoder, list_bases, list_encoders

try:
    from segmentation_models_pytorch.encoders import (
        encoders as ENTRIES,
    )  # noqa: N812 - SMP's registry
except ModuleNotFoundError as error:
    raise ImportError(
        "kanseg.integrations.smp needs segmentation-models-pytorch: python -m pip install"
        " segmentation-models-pytorch"
    ) from error

DEFAULT_BASIS = "gram"


class SMPEncoder(nn.Module):
    """One of our encoders under SMP's contract: (B, C, H, W) -> depth + 1 features, the image
    itself first, strides 1 to 2^depth.

    SMP's decoders read no other feature of the image's size.

    Args:
        name: one of `kanseg.list_encoders()`.
        depth: halvings, 1 to 5.
        output_stride: 32, or 16 or 8 for a dilated encoder.
        options: as of `kanseg.create_encoder`.

    Raises:
        ValueError: a depth out of range, an unknown name or option.
    """

    _is_torch_scriptable = False
    _is_torch_exportable = True
    _is_torch_compilable = True

    def __init__(self, name: str, *, depth: int = 5, output_stride: int = 32, **options: object):
        super().__init__()
        if isinstance(depth, bool) or not isinstance(depth, int) or not 1 <= depth <= 5:
            raise ValueError(f"encoder depth must be 1 to 5, got {depth!r}")
        self.encoder = create_encoder(name, depth=depth, **options)
        self._depth = depth
        self._output_stride = 32
        if output_stride != 32:
            self.make_dilated(output_stride)

    @property
    def _in_channels(self) -> int:
        return self.encoder.in_channels

    @property
    def _out_channels(self) -> list[int]:
        return [self.encoder.in_channels, *self.encoder.out_channels[1:]]

    @property
    def out_channels(self) -> list[int]:
        """Channels of the features."""
        return self._out_channels

    @property
    def output_stride(self) -> int:
        """Pixels of the image per pixel of the deepest feature."""
        return self.encoder.output_stride

    def set_in_channels(self, in_channels: int, pretrained: bool = True) -> None:
        """Read images of another number of channels; pretrained=False draws the weights of the
        first layer anew.
        """
        self.encoder.set_in_channels(in_channels, pretrained=pretrained)

    def make_dilated(self, output_stride: int) -> None:
        """Keep features from shrinking beyond a stride of 8 or 16
        (`kanseg.encoders.Encoder.make_dilated`).
        """
        self.encoder.make_dilated(output_stride)
        self._output_stride = output_stride

    def forward(self, x: Tensor) -> list[Tensor]:
        return [x, *self.encoder(x)[1:]]

    def __prepare_scriptable__(self) -> nn.Module:
        raise RuntimeError(
            "KAN layers cannot be compiled by TorchScript: use torch.export or torch.compile"
        )


def register(name: str, encoder: str, *, basis: str = DEFAULT_BASIS, **options: object) -> str:
    """File one of our encoders with options under a name for `encoder_name`, which is returned.

    Args:
        name: such as "kanseg-small".
        encoder: one of `kanseg.list_encoders()`.
        basis, options: as of `kanseg.create_encoder`, but for `depth`, which SMP gives.

    Raises:
        ValueError: an unknown encoder or option, or a name that SMP would not look up or has for an
            encoder of its own.
    """
    if (
        name.startswith(("tu-", "timm-"))
        or ENTRIES.get(name, {"encoder": SMPEncoder})["encoder"] is not SMPEncoder
    ):
        raise ValueError(
            f"{name!r} is a name of segmentation_models.pytorch: choose another, such as"
            f" 'kanseg-{encoder}-mine'"
        )
    if "depth" in options:
        raise ValueError(
            "segmentation_models.pytorch gives the depth itself: smp.Unet(..., encoder_depth=...)"
        )
    create_encoder(encoder, depth=1, basis=basis, **options)  # raises for what it does not take
    _file(name, encoder, basis, options)
    return name


def _file(name: str, encoder: str, basis: str, options: dict[str, object]) -> None:
    ENTRIES[name] = {
        "encoder": SMPEncoder,
        "pretrained_settings": {},
        "params": {"name": encoder, "basis": basis, **options},
    }


for _encoder in list_encoders():
    _file(f"kanseg-{_encoder}", _encoder, DEFAULT_BASIS, {})
    for _basis in list_bases():
        _file(f"kanseg-{_encoder}-{_basis}", _encoder, _basis, {})
