"""Our encoders in segmentation_models.pytorch, registered by importing this module.

The names are `kanseg-NAME-BASIS` for each encoder and basis ("kanseg-ukanet_18-gram"), and
`kanseg-NAME` for the default basis. SMP does not pass options to encoders: use `register` to name
an encoder with other options.
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
    """One of our encoders with SMP's interface: (B, C, H, W) -> depth + 1 features of strides 1 to
    2^depth, the image itself first.

    The encoder's own feature of the image's size is left out, since SMP's decoders do not read it.

    Args:
        name: one of `kanseg.list_encoders()`.
        depth: number of halvings, 1 to 5.
        output_stride: 32, or 16 or 8 for a dilated encoder.
        options: options of `kanseg.create_encoder`.

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
    def out_channels(self) -> list[int]:
        """Channels of the features."""
        return [self.encoder.in_channels, *self.encoder.out_channels[1:]]

    _out_channels = out_channels  # SMP's encoders have both names

    @property
    def output_stride(self) -> int:
        """Pixels of the image per pixel of the deepest feature."""
        return self.encoder.output_stride

    def set_in_channels(self, in_channels: int, pretrained: bool = True) -> None:
        """Change the number of image channels; pretrained=False resets the first layer."""
        self.encoder.set_in_channels(in_channels, pretrained=pretrained)

    def make_dilated(self, output_stride: int) -> None:
        """Limit the output stride to 8 or 16 (`kanseg.encoders.Encoder.make_dilated`)."""
        self.encoder.make_dilated(output_stride)
        self._output_stride = output_stride

    def forward(self, x: Tensor) -> list[Tensor]:
        return [x, *self.encoder(x)[1:]]

    def __prepare_scriptable__(self) -> nn.Module:
        raise RuntimeError(
            "KAN layers cannot be compiled by TorchScript: use torch.export or torch.compile"
        )


def register(name: str, encoder: str, *, basis: str = DEFAULT_BASIS, **options: object) -> str:
    """Register one of our encoders with options under a name for SMP's `encoder_name`; returns the
    name.

    Args:
        name: such as "kanseg-small".
        encoder: one of `kanseg.list_encoders()`.
        basis, options: as in `kanseg.create_encoder`, except `depth`, which SMP sets.

    Raises:
        ValueError: an unknown encoder or option, or a name that belongs to SMP.
    """
    is_taken = name in ENTRIES and ENTRIES[name]["encoder"] is not SMPEncoder
    if is_taken or name.startswith(("tu-", "timm-")):
        raise ValueError(
            f"{name!r} is a name of segmentation_models.pytorch: choose another, such as"
            f" 'kanseg-{encoder}-mine'"
        )
    if "depth" in options:
        raise ValueError(
            "segmentation_models.pytorch sets the depth: smp.Unet(..., encoder_depth=...)"
        )
    create_encoder(encoder, depth=1, basis=basis, **options)  # checks the options
    _add_entry(name, encoder, basis, options)
    return name


def _add_entry(name: str, encoder: str, basis: str, options: dict[str, object]) -> None:
    ENTRIES[name] = {
        "encoder": SMPEncoder,
        "pretrained_settings": {},
        "params": {"name": encoder, "basis": basis, **options},
    }


for _encoder in list_encoders():
    _add_entry(f"kanseg-{_encoder}", _encoder, DEFAULT_BASIS, {})
    for _basis in list_bases():
        _add_entry(f"kanseg-{_encoder}-{_basis}", _encoder, _basis, {})
