"""Makes torch_conv_kan.json and torch_conv_kan_signatures.txt from the original: python
make_torch_conv_kan.py CLONE

CLONE is a clone of github.com/IvanDrokin/torch-conv-kan at commit 7a0e83c; its packages kan_convs
and kans need torch, einops, pillow and matplotlib. The JSON has, for each call below, the shapes of
the state dict and the output in eval mode. Weights and inputs are not in it: `fill` and `wave` make
them from the shapes, here and in the test.
"""

import importlib
import inspect
import json
import sys
from pathlib import Path

import torch

STORED = ("rbf.grid", "arange", "num_batches_tracked")  # not free: written as values
CALLS = [
    ("KANConv1DLayer", [2, 2, 3], {"padding": 1}, [2, 2, 5]),
    ("KANConv2DLayer", [2, 2, 2], {}, [2, 2, 3, 3]),
    ("KANConv2DLayer", [4, 2, 2, 2, 2], {"grid_size": 3, "affine": True}, [2, 4, 3, 3]),
    ("KANConv3DLayer", [2, 2, 2], {}, [1, 2, 3, 3, 2]),
    ("FastKANConv2DLayer", [2, 2, 2], {}, [2, 2, 3, 3]),
    ("FastKANConv2DLayer", [4, 2, 2, 2], {"grid_size": 4, "affine": True}, [2, 4, 3, 3]),
    ("KALNConv2DLayer", [2, 2, 2], {"degree": 4}, [2, 2, 3, 3]),
    ("KALNConv1DLayer", [4, 2, 3], {"groups": 2, "stride": 2}, [2, 4, 7]),
    ("KACNConv2DLayer", [2, 2, 2], {}, [2, 2, 3, 3]),
    ("KAGNConv2DLayer", [2, 2, 2], {"degree": 4}, [2, 2, 3, 3]),
    ("KAGNConv2DLayer", [4, 4, 2], {"groups": 2, "dilation": 2}, [1, 4, 4, 4]),
    ("KAGNConv3DLayer", [2, 2, 2], {}, [1, 2, 3, 2, 3]),
    ("KAJNConv2DLayer", [2, 2, 2], {"a": 0.5, "b": 2.0}, [2, 2, 3, 3]),
    ("ReLUKANConv2DLayer", [2, 2, 2], {}, [2, 2, 3, 3]),
    ("ReLUKANConv2DLayer", [4, 2, 2], {"g": 2, "k": 1, "groups": 2}, [1, 4, 3, 3]),
    *(
        ("WavKANConv2DLayer", [3, 2, 2], {"wavelet_type": w}, [1, 3, 3, 3])
        for w in ("mexican_hat", "morlet", "dog", "meyer", "shannon")
    ),
    ("WavKANConv2DLayer", [4, 4, 2], {"groups": 2, "wav_version": "base"}, [1, 4, 3, 3]),
    ("WavKANConv1DLayer", [2, 2, 2], {"wav_version": "fast_plus_one"}, [1, 2, 4]),
    ("BottleNeckKAGNConv2DLayer", [4, 4, 2], {"groups": 2, "degree": 2}, [1, 4, 3, 3]),
    ("BottleNeckKAGNConv2DLayer", [6, 2, 2], {"dim_reduction": 2, "min_internal": 1}, [1, 6, 3, 3]),
    ("BottleNeckReLUKANConv2DLayer", [2, 3, 2], {"g": 2, "k": 1}, [1, 2, 3, 3]),
    *(
        (net, [[3, 4, 2]], {}, [3, 3])
        for net in (
            "KAN",
            "FastKAN",
            "KALN",
            "KACN",
            "KAGN",
            "KAJN",
            "ReLUKAN",
            "WavKAN",
            "BottleNeckKAGN",
        )
    ),
    ("KAN", [[3, 4, 2]], {"dropout": 0.5, "l1_decay": 0.1}, [3, 3]),
]


def wave(shape, seed):
    """Numbers in [-1, 1] that look random and are the same everywhere."""
    count = torch.Size(shape).numel()
    return (
        torch.sin(torch.arange(count, dtype=torch.float64) * 12.9898 + seed * 78.233)
        .reshape(shape)
        .float()
    )


def fill(key, shape, seed):
    """Weights for an entry of a state dict: scales, variances and gains around 1, the ends of bumps
    around -0.5 and 0.7, the others around 0.
    """
    last = key.split(".")[-1]
    if last in ("scale", "running_var") or (last == "weight" and len(shape) == 1):
        return 1 + 0.4 * wave(shape, seed)
    return {"phase_low": -0.5, "phase_high": 0.7}.get(last, 0) + 0.5 * wave(shape, seed)


def parameters_of(callable_):
    """The parameters of a callable as text: a, b=1, **rest."""
    parts = []
    for p in inspect.signature(callable_).parameters.values():
        default = (
            ""
            if p.default is p.empty
            else f"={p.default.__name__ if isinstance(p.default, type) else repr(p.default)}"
        )
        parts.append(("**" if p.kind is p.VAR_KEYWORD else "") + p.name + default)
    return ", ".join(parts)


def signatures():
    """Lines NAME: PARAMETERS of the callables that kanseg has; for the convolutions one line with
    {n} for 1, 2 and 3.
    """
    modules = [importlib.import_module("kan_convs"), importlib.import_module("kans")]
    other = ("MoE", "tention", "Modulation", "1D", "3D", "RadialBasisFunction")
    for module in modules:
        for name, value in sorted(vars(module).items()):
            if (
                not name.startswith("_")
                and callable(value)
                and not any(part in name for part in other)
            ):
                yield f"{name}: {parameters_of(value)}\n".replace("2DLayer", "{n}DLayer").replace(
                    "Norm2d", "Norm{n}d"
                )


def main(clone):
    sys.path.insert(0, clone)
    torch.manual_seed(0)
    lines = []
    for name, args, kwargs, shape in CALLS:
        module = getattr(importlib.import_module("kan_convs" if "Conv" in name else "kans"), name)(
            *args, **kwargs
        ).eval()
        state = {
            k: v.tolist() if k.endswith(STORED) else list(v.shape)
            for k, v in sorted(module.state_dict().items())
        }
        for seed, (key, entry) in enumerate(sorted(module.state_dict(keep_vars=True).items())):
            if not key.endswith(STORED):
                entry.data = fill(key, entry.shape, seed)
        with torch.no_grad():
            output = module(1.5 * wave(shape, -1))
        flat = [round(v, 6) for v in output.flatten().tolist()]
        lines.append(
            json.dumps(
                {
                    "callable": name,
                    "args": args,
                    "kwargs": kwargs,
                    "input": shape,
                    "state": state,
                    "output": flat,
                }
            )
        )
    Path(__file__).with_name("torch_conv_kan_signatures.txt").write_text("".join(signatures()))
    Path(__file__).with_name("torch_conv_kan.json").write_text("[\n" + ",\n".join(lines) + "\n]\n")


if __name__ == "__main__":
    main(sys.argv[1])
