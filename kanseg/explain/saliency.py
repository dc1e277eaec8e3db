"""Where a network looked: Grad-CAM and occlusion of any layer, for masks and for classes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kanseg.models.operations import preserve_state
from kanseg.utils.errors import InputError
from kanseg.utils.installation import install
from kanseg.utils.registry import nearest

BATCH = 16  # occluded images that run together
HEADS = ("segmentation_head", "classification_head", "head")


class ClassScore:
    """The score of a class in the output of a network: the logit of a classifier, or the mean logit
    of a segmentation network over the pixels that it assigns to the class (over all pixels if there
    are none).

    Args:
        label: index of the class; of a binary network 0 is the background, whose logit is the
            negative one, and 1 the foreground.
        logits: (N,) or (N, H, W) of the image as it is, which fix the pixels.
    """

    def __init__(self, label: int, logits: Tensor):
        self.label, self.is_binary = label, len(logits) == 1
        classes = 2 if self.is_binary else len(logits)
        if not 0 <= label < classes:
            raise InputError(f"there is no class {label}: the network has classes 0-{classes - 1}")
        self.pixels = None
        if logits.dim() == 3:
            own = self._logit(logits)
            others = -own
            if not self.is_binary:
                others = logits.max(dim=0).values
            self.pixels = own >= others
            if not self.pixels.any():
                self.pixels = torch.ones_like(self.pixels)

    def __call__(self, logits: Tensor) -> Tensor:
        """Score (...) of logits (..., N) or (..., N, H, W)."""
        if self.pixels is None:
            return self.sum(logits)
        return self.sum(logits) / self.pixels.sum()

    def sum(self, logits: Tensor) -> Tensor:
        """The score times the number of its pixels."""
        if self.pixels is None:
            return self._logit(logits.movedim(-1, 0))
        own = self._logit(logits.movedim(-3, 0))
        return (own * self.pixels).sum(dim=(-2, -1))

    def _logit(self, logits: Tensor) -> Tensor:
        """The logit of the class, of logits (N, ...)."""
        if not self.is_binary:
            return logits[self.label]
        return logits[0] if self.label == 1 else -logits[0]


class _Logits(nn.Module):
    """A network without the labels that it returns beside the masks."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        output = self.network(x)
        return output[0] if isinstance(output, tuple) else output


def grad_cam(network: nn.Module, images: Tensor, layer: str, label: int) -> Tensor:
    """Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391), by the package `grad-cam`.

    The channels of the layer's output are weighted by their mean gradient of the class score
    (`ClassScore`) and added; negative values become 0.

    Args:
        network: segmentation network or classifier.
        images: (B, C, H, W), as the network gets them.
        layer: a name of `network.named_modules()` with an output (B, C', h, w); see `map_layers`.
        label: index of the class.

    Returns:
        (B, H, W) on the CPU, from 0 to 1 in each image (0 everywhere if nothing speaks for the
        class).

    Raises:
        InputError: an unknown layer or class, a layer without maps or on which the logits do not
            depend, or `grad-cam` is not installed.
    """
    try:
        from pytorch_grad_cam import GradCAM
    except ImportError:
        raise InputError(f"Grad-CAM needs the package grad-cam: {install('explain')}") from None
    module = _layer_with_maps(network, images, layer)
    if not _before_logits(network, images, [layer]):
        raise InputError(
            f"the scores of the classes do not depend on the output of layer {layer!r}"
        )
    gradients = [(parameter, parameter.grad) for parameter in network.parameters()]
    model = _Logits(network)
    with preserve_state(network, training=False), torch.enable_grad():
        with torch.no_grad():
            # Sums: means over many pixels have gradients too small for the scaling of the package.
            scores = [ClassScore(label, logits).sum for logits in model(images)]
        cam = GradCAM(model, [module])
        # An activation behind the layer may write into its output, which Grad-CAM still needs.
        copy = module.register_forward_hook(lambda module, inputs, output: output.clone())
        try:
            maps = cam(images.detach().clone().requires_grad_(), scores)
        finally:
            copy.remove()
            cam.activations_and_grads.release()
            for parameter, gradient in gradients:
                parameter.grad = gradient
    return torch.from_numpy(maps)


@torch.no_grad()
def occlusion(
    network: nn.Module, images: Tensor, label: int, *, layer: str | None = None, patches: int = 8
) -> Tensor:
    """How much the score of a class falls when a part of the image, or of the output of a layer, is
    hidden (Zeiler and Fergus 2014, arXiv:1311.2901).

    A hidden part has the mean of each channel. The network runs patches^2 times on each image.

    Args:
        network: segmentation network or classifier.
        images: (B, C, H, W), as the network gets them.
        label: index of the class, see `ClassScore`.
        layer: hide parts of its output, a name as of `grad_cam`; by default of the image.
        patches: parts per side.

    Returns:
        (B, H, W) on the CPU: the fall of the score, a logit, when the part around a pixel is
        hidden; negative where hiding it raises the score.

    Raises:
        InputError: an unknown layer or class, or a layer without maps.
    """
    module = network if layer is None else _layer_with_maps(network, images, layer)
    model = _Logits(network)
    falls = []
    with preserve_state(network, training=False):
        for image in images:
            score = ClassScore(label, model(image[None])[0])
            before = score(model(image[None]))
            after = []
            for cells in torch.arange(patches**2).split(BATCH):
                batch = image.expand(len(cells), *image.shape)
                if layer is None:
                    output = model(_hidden(batch, cells, patches))
                else:
                    hide = partial(_hide_output, cells=cells, patches=patches)
                    hook = module.register_forward_hook(hide)
                    try:
                        output = model(batch)
                    finally:
                        hook.remove()
                after.append(score(output))
            falls.append((before - torch.cat(after)).reshape(1, patches, patches))
    maps = torch.stack(falls).float().cpu()
    return F.interpolate(maps, size=images.shape[-2:], mode="nearest").squeeze(1)


def map_layers(network: nn.Module, images: Tensor) -> dict[str, tuple[int, int, int]]:
    """Name -> (C, h, w) of the layers whose output is a map per channel, in the order in which they
    run; the last run counts.
    """
    shapes: dict[str, tuple[int, int, int]] = {}

    def note(name: str, _: nn.Module, __: tuple, output: object) -> None:
        shapes.pop(name, None)
        if isinstance(output, Tensor) and output.dim() == 4:
            shapes[name] = tuple(output.shape[1:])

    hooks = []
    for name, module in network.named_modules():
        if name:
            hooks.append(module.register_forward_hook(partial(note, name)))
    try:
        with preserve_state(network, training=False), torch.no_grad():
            network(images[:1])
    finally:
        for hook in hooks:
            hook.remove()
    return shapes


def default_layers(network: nn.Module, images: Tensor) -> list[str]:
    """The layers that Grad-CAM is most often asked for: the deepest one with maps, and the last one
    before the logits (of a classifier the deepest only).
    """
    shapes = map_layers(network, images)
    layers = [name for name in shapes if not name.startswith(HEADS)]
    layers = [name for name in layers if min(shapes[name][1:]) > 1]
    layers = _before_logits(network, images, layers)
    if not layers:
        return []
    smallest = min(shapes[name][1] * shapes[name][2] for name in layers)
    deepest = [name for name in layers if shapes[name][1] * shapes[name][2] == smallest][-1]
    return list(dict.fromkeys([deepest, layers[-1]]))


def _before_logits(network: nn.Module, images: Tensor, layers: Sequence[str]) -> list[str]:
    """Those of the layers on whose outputs the logits depend; the others belong to another output,
    such as the reconstruction of an autoencoder.
    """
    outputs: dict[str, Tensor] = {}

    def keep(name: str, _: nn.Module, __: tuple, output: Tensor) -> Tensor:
        outputs[name] = output.clone()  # what follows may write into the output
        return outputs[name]

    hooks = []
    for name in layers:
        hooks.append(network.get_submodule(name).register_forward_hook(partial(keep, name)))
    try:
        with preserve_state(network, training=False), torch.enable_grad():
            logits = _Logits(network)(images[:1].detach().clone().requires_grad_())
    finally:
        for hook in hooks:
            hook.remove()
    names = [name for name in layers if outputs[name].requires_grad]
    if not names:
        return []
    kept = [outputs[name] for name in names]
    gradients = torch.autograd.grad(logits.sum(), kept, allow_unused=True)
    return [name for name, gradient in zip(names, gradients, strict=True) if gradient is not None]


def _layer_with_maps(network: nn.Module, images: Tensor, layer: str) -> nn.Module:
    """The layer of this name; InputError if there is none, or its output has no maps."""
    known = map_layers(network, images)
    if layer in known:
        return network.get_submodule(layer)
    if layer in dict(network.named_modules()):
        raise InputError(f"the output of layer {layer!r} is not a map per channel")
    raise InputError(
        f"the network has no layer {layer!r}{nearest(layer, known)}; its layers are the names in"
        " network.named_modules()"
    )


def _hidden(x: Tensor, cells: Tensor, patches: int) -> Tensor:
    """Hide one cell of each of the maps (n, C, h, w): row by row, cell i of patches^2."""
    height, width = x.shape[-2:]
    rows = torch.arange(height) * patches // height
    columns = torch.arange(width) * patches // width
    cell = rows[:, None] * patches + columns
    is_hidden = (cells[:, None, None] == cell).unsqueeze(1).to(x.device)
    return torch.where(is_hidden, x.mean(dim=(-2, -1), keepdim=True), x)


def _hide_output(
    module: nn.Module, inputs: tuple, output: Tensor, *, cells: Tensor, patches: int
) -> Tensor:
    """A forward hook that hides a cell in each sample of the output."""
    return _hidden(output, cells, patches)
