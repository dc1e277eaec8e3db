"""Makes networks.json from the original: python make_networks.py CLONE, with CLONE as for
make_torch_conv_kan.py (the models need huggingface_hub too).

For each call below: the state dict as kinds of modules (entry -> shape, or value of what is not
free) with the names that each kind has, and some of the outputs in eval mode. Weights and inputs
are made from the shapes, here and in the test.
"""

import importlib
import json
import math
import sys
from pathlib import Path

import torch
from torch import nn

from tests.compat.make_torch_conv_kan import STORED, fill, parameters_of, wave

SAMPLES = 12  # of each output
BATCH = "torch.nn.BatchNorm2d"
CALLS = [
    ("fast_ukanet_18", {"input_channels": 1, "num_classes": 2}, [1, 1, 16, 16]),
    ("ukagnet_18", {"input_channels": 1, "num_classes": 2, "degree": 4}, [1, 1, 16, 24]),
    ("ukagnetnb_18", {"input_channels": 2, "num_classes": 2, "affine": False}, [1, 2, 16, 16]),
    (
        "UKAGNet",
        {
            "input_channels": 1,
            "num_classes": 2,
            "unet_depth": 3,
            "use_bottleneck": False,
            "degree": 2,
        },
        [1, 1, 8, 8],
    ),
    (
        "UKAGNet",
        {"input_channels": 2, "num_classes": 2, "unet_depth": 2, "unet_layers": 3},
        [1, 2, 8, 8],
    ),
    ("u2kagnet_bn_small", {"input_channels": 1, "num_classes": 1, "affine": False}, [1, 1, 64, 64]),
    (
        "vggkan",
        {
            "input_channels": 1,
            "num_classes": 3,
            "expected_feature_shape": [1, 1],
            "head_type": "VGG",
            "norm_layer": BATCH,
        },
        [1, 1, 17, 21],
    ),
    (
        "vggkaln",
        {
            "input_channels": 1,
            "num_classes": 3,
            "head_type": "HiddenKAN",
            "expected_feature_shape": [2, 2],
        },
        [1, 1, 40, 40],
    ),
    (
        "vggkagn",
        {"input_channels": 1, "num_classes": 3, "vgg_type": "VGG13v2", "head_type": None},
        [1, 1, 64, 64],
    ),
    (
        "VGGKAGN_BN",
        {
            "input_channels": 1,
            "num_classes": 3,
            "vgg_type": "VGG11v4",
            "expected_feature_shape": [1, 1],
            "affine": True,
            "norm_layer": BATCH,
        },
        [1, 1, 32, 32],
    ),
    ("reskacnet_18x32p", {"input_channels": 2, "num_classes": 3, "groups": 2}, [1, 2, 9, 9]),
    ("reskalnet_18x64p", {"input_channels": 1, "num_classes": 3, "affine": True}, [1, 1, 33, 33]),
    ("reskagnet50", {"input_channels": 1, "num_classes": 3, "affine": False}, [1, 1, 64, 64]),
    (
        "tiny_densekacnet",
        {
            "input_channels": 1,
            "num_classes": 3,
            "growth_rate": 4,
            "num_init_features": 8,
            "l1_decay": 0.1,
        },
        [1, 1, 37, 37],
    ),
    ("SimpleConvKAN", {"layer_sizes": [2, 4, 4, 6], "num_classes": 3}, [1, 1, 9, 9]),
    (
        "EightSimpleFastConvKAN",
        {"layer_sizes": [2, 4, 4, 4, 4, 6, 6, 6], "num_classes": 3, "degree_out": 1},
        [1, 1, 9, 9],
    ),
    ("SimpleConv", {"layer_sizes": [2, 4, 4, 6], "num_classes": 3}, [1, 1, 9, 9]),
]


def fill_network(key, shape, seed):
    """Weights for an entry of a network's state dict: like `fill`, but of a size that lets signals
    through.
    """
    if key.endswith("beta_weights"):
        return 0.02 * wave(shape, seed)
    if len(shape) < 2:
        return fill(key, shape, seed)
    outputs = {3: shape[1], 5: shape[0] * shape[1]}.get(
        len(shape), shape[0]
    )  # (in, out, K); (groups, out, in K, kernel); (out, in, kernel)
    return wave(shape, seed) * math.sqrt(3 * outputs / math.prod(shape))


def theirs(case):
    """The state dict that gave a case's outputs."""
    entries = {
        f"{name}.{key}": entry
        for kind, names in case["modules"]
        for name in names.split()
        for key, entry in kind.items()
    }
    state = {}
    for seed, (key, entry) in enumerate(sorted(entries.items())):
        state[key] = torch.tensor(entry) if key.endswith(STORED) else fill_network(key, entry, seed)
    return state


def arguments(case):
    """The keyword arguments, with classes for their names."""
    return {
        k: getattr(nn, v.rpartition(".")[2]) if str(v).startswith("torch.nn.") else v
        for k, v in case["kwargs"].items()
    }


def samples(output):
    """The values of an output that are stored."""
    flat = output.flatten()
    return flat[torch.linspace(0, len(flat) - 1, min(SAMPLES, len(flat))).long()]


def modules_of(network):
    """[[{entry: shape or value}, "name name ..."], ...] over the outermost modules that are layers
    or hold parameters of their own.
    """
    kinds, done = {}, []
    for name, module in network.named_modules():
        layer = (
            type(module).__module__.startswith("kan_convs")
            or "kans.layers" in type(module).__module__
        )
        if any(name.startswith(f"{other}.") for other in done) or not (
            layer or list(module.parameters(recurse=False))
        ):
            continue
        done.append(name)
        kind = {
            k: v.tolist() if k.endswith(STORED) else list(v.shape)
            for k, v in module.state_dict().items()
        }
        kinds.setdefault(json.dumps(kind), []).append(name)
    return [[json.loads(kind), " ".join(names)] for kind, names in kinds.items()]


def signatures(models):
    """Lines NAME NAME ...: PARAMETERS of the networks that kanseg has."""
    names = {}
    for name, value in sorted(vars(models).items()):
        if (
            not name.startswith("_")
            and callable(value)
            and not any(part in name.lower() for part in ("moe", "auto"))
        ):
            names.setdefault(parameters_of(value), []).append(name)
    return [f"{' '.join(alike)}: {parameters}\n" for parameters, alike in names.items()]


def main(clone):
    sys.path.insert(0, clone)
    models = importlib.import_module("models")
    lines = []
    for name, kwargs, shape in CALLS:
        case = {"callable": name, "kwargs": kwargs, "input": shape}
        network = getattr(models, name)(**arguments(case)).eval()
        case["modules"] = modules_of(network)
        network.load_state_dict(theirs(case))
        with torch.no_grad():  # in float64, since some networks magnify the last bit
            outputs = network.double()(wave(shape, -1).double())
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        case["outputs"] = [[round(v, 5) for v in samples(output).tolist()] for output in outputs]
        lines.append(json.dumps(case, separators=(",", ":")))
    Path(__file__).with_name("networks_signatures.txt").write_text("".join(signatures(models)))
    Path(__file__).with_name("networks.json").write_text("[\n" + ",\n".join(lines) + "\n]\n")


if __name__ == "__main__":
    main(sys.argv[1])
