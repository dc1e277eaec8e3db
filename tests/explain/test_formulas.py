"""Formulas for learned functions, and networks whose functions are replaced by them."""

import json
import shutil

import pytest
import torch
from torch import nn

import kanseg
from conftest import make_folder, write_segmenter
from kanseg.cli.snap import main
from kanseg.config import Config, DataConfig, ModelConfig, TrainingConfig
from kanseg.data.io.images import decode_image
from kanseg.explain.formulas import (
    LayerFormulas,
    describe_shape,
    fit,
    formula_table,
    formulas,
    sum_of_terms,
    words_table,
)
from kanseg.explain.snap import snap
from kanseg.inference.checkpoint import read_description
from kanseg.inference.description import preprocess_from
from kanseg.layers import KANActivation, KANConv2d, replace_by_formulas
from kanseg.layers.inspection.formulas import FAMILIES
from kanseg.training.run import train
from kanseg.utils.errors import InputError

KNOWN = {
    "constant": lambda x: torch.full_like(x, 0.25),
    "linear": lambda x: 0.3 * x - 0.1,
    "relu": lambda x: 2 * torch.relu(0.4 - 1.5 * x) - 0.3,
    "abs": lambda x: 1 - 0.7 * (x + 0.2).abs(),
    "quadratic": lambda x: 0.5 * (x - 0.4) ** 2 - 1,
    "silu": lambda x: nn.functional.silu(2.5 * x - 0.2),
    "tanh": lambda x: 2 * torch.tanh(1.7 * x - 0.5),
    "exp": lambda x: 0.2 * torch.exp(-0.8 * x) + 0.4,
    "gaussian": lambda x: 3 * torch.exp(-((1.4 * x - 0.3) ** 2)),
    "sin": lambda x: 0.7 * torch.sin(2 * x + 0.3) + 0.1,
}


class Known(nn.Module):
    """A base activation that computes a known function."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@pytest.fixture
def inputs():
    """Points over three standard deviations of N(0, 1), and their weights."""
    x = torch.linspace(-3, 3, 201, dtype=torch.float64)
    weights = torch.exp(-x * x / 2)
    return x, weights / weights.sum()


def evaluated(formula, x):
    t = formula.a * x + formula.b
    return formula.c * FAMILIES[formula.family].value(t) + formula.d


@pytest.mark.parametrize("family", FAMILIES)
def test_a_known_function_is_recovered_wherever_its_inputs_lie(family, inputs):
    x, weights = inputs
    y = KNOWN[family](x)
    for scale, shift in ((1, 0), (0.1, 5)):
        found = fit(scale * x + shift, y, weights, threshold=0.9999)
        assert found.family == family
        assert found.r2 > 0.9999
        torch.testing.assert_close(evaluated(found, scale * x + shift), y, atol=1e-3, rtol=0)


def test_of_formulas_that_fit_the_simplest_is_taken(inputs):
    x, weights = inputs
    y = x + 0.05 * x * x
    assert fit(x, y, weights, threshold=0.99).family == "linear"
    assert fit(x, y, weights, threshold=0.9999).family == "quadratic"


def test_only_inputs_that_occur_count(inputs):
    x, _ = inputs
    weights = (x > 0).double()
    found = fit(x, nn.functional.relu(x), weights / weights.sum())
    assert (found.family, str(found)) == ("linear", "x")


def test_r2_is_that_of_the_fit(inputs):
    x, weights = inputs
    y = torch.sin(3 * x) + x
    found = fit(x, y, weights)
    error = weights @ (evaluated(found, x) - y).square()
    variance = weights @ (y - weights @ y).square()
    assert found.r2 == pytest.approx(float(1 - error / variance), abs=1e-9)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda x: -((x - 0.5) ** 2), "rises until 0.5, falls after"),
        (lambda x: torch.relu(1 - x), "falls throughout, high inputs are suppressed"),
        (lambda x: torch.relu(x - 1), "rises throughout, low inputs are suppressed"),
        (lambda x: x + 0.01 * torch.sin(9 * x), "rises throughout"),
        (lambda x: 0 * x + 2, "constant"),
    ],
)
def test_shapes_in_words(function, words):
    x = torch.linspace(-3, 3, 601, dtype=torch.float64)
    assert describe_shape(x, function(x)) == words


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
def test_a_formula_is_that_of_its_shape_whatever_the_scale(scale):
    text = sum_of_terms([(2 * scale, "x"), (1e-8 * scale, "x^2"), (0.0, "x^3"), (-scale, "")])
    assert text == f"{2 * scale:.3g} x - {scale:.3g}"


def learned(basis="gram", weights=None, **options):
    layer = KANActivation(2, basis=basis, **options)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weights))
    return layer


def test_polynomials_are_written_out_exactly():
    """Gram: 1, t, t^2 - 1/3; Bernstein: (1 - t)^2, 2 t (1 - t), t^2."""
    batches = [torch.randn(2, 2, 16, 16)]
    gram = learned(weights=[[0.5, -1.0, 3.0], [1.0, 0.0, -0.3]], degree=2, domain="identity")
    (found,) = formulas(nn.Sequential(gram), batches)
    assert found.exact == ["silu(x) - 0.5 - x + 3 x^2", "silu(x) + 1.1 - 0.3 x^2"]
    bernstein = learned(
        "bernstein", weights=[[1.0, 0.0, 0.0], [0.0, 0.0, 2.0]], degree=2, base=None
    )
    (found,) = formulas(nn.Sequential(bernstein), batches)
    assert found.exact == ["1 - 2 t + t^2, t = sigmoid(x)", "2 t^2, t = sigmoid(x)"]
    splines = KANActivation(2, basis="bspline")
    (found,) = formulas(nn.Sequential(splines), batches)
    assert found.exact == [None, None]


def test_functions_of_edges_are_listed_but_not_replaced():
    network = nn.Sequential(KANConv2d(2, 8, 3, basis="chebyshev", norm=None, activation=None))
    (found,) = formulas(network, [torch.randn(2, 2, 16, 16)])
    assert found.num_functions == 144
    assert len(found.rows) == len(found.formula) == 8
    assert "136 weaker functions" in formula_table([found])
    assert all("t^3" in text and "silu(x)" in text for text in found.exact)
    assert snap(network, [found], threshold=0.1) == {}


def test_the_names_of_functions_are_translated(monkeypatch):
    rows = ["channel 1", "layer", "in 0 -> out 2 [1, 1]"]
    found = LayerFormulas("0", rows, ["x"] * 3, [1.0] * 3, [None] * 3, [""] * 3, 3, [])
    monkeypatch.setenv("KANSEG_LANG", "zh")
    for table in (formula_table([found]), words_table(found)):
        assert "通道 1" in table
        assert "所有通道" in table
        assert "输入 0 → 输出 2 [1, 1]" in table


def small(**options):
    network = kanseg.create_model("unet", classes=1, width=2, depth=1, basis="bspline", **options)
    for module in network.modules():
        if isinstance(module, KANActivation):
            nn.init.normal_(module.weight, std=0.1)
    return network.eval()


def test_a_replaced_function_has_the_error_that_is_reported():
    network = nn.Sequential(learned("bspline", (torch.randn(2, 9) / 3).tolist()))
    x = torch.randn(8, 2, 32, 32)
    before = network(x)
    (found,) = formulas(network, [x])
    assert snap(network, [found], threshold=0.1) == {"0": [each.family for each in found.fitted]}
    error = (network(x) - before).square().mean(dim=(0, 2, 3))
    r2 = 1 - error / before.var(dim=(0, 2, 3))
    torch.testing.assert_close(r2, torch.tensor(found.r2), atol=0.02, rtol=0)


@pytest.mark.parametrize("family", ["quadratic", "exp"])
def test_steep_formulas_keep_their_last_value_beyond_the_inputs_of_the_fit(family):
    network = nn.Sequential(learned("bspline", [[0.0] * 9] * 2))
    network[0].base = Known(KNOWN[family])
    inputs = torch.rand(1, 2, 32, 32) * 2 - 1
    (found,) = formulas(network, [inputs], threshold=0.9999)
    assert [each.family for each in found.fitted] == [family] * 2
    assert found.fitted[0].lo == pytest.approx(-1, abs=0.05)
    assert found.fitted[0].hi == pytest.approx(1, abs=0.05)
    snap(network, [found])
    far, ends = torch.tensor([-100.0, 100.0]), torch.tensor([-1.0, 1.0])
    torch.testing.assert_close(
        network(far.expand(1, 2, 2)), KNOWN[family](ends).expand(1, 2, 2), atol=0.1, rtol=0
    )
    again = nn.Sequential(learned("bspline", [[0.0] * 9] * 2))
    replace_by_formulas(again, {"0": [family] * 2})
    again.load_state_dict(network.state_dict())
    torch.testing.assert_close(again(far.expand(1, 2, 2)), network(far.expand(1, 2, 2)))


def test_functions_of_normalized_inputs_are_not_replaced():
    network = nn.Sequential(KANActivation(2, basis="gram", domain="instance_norm"))
    found = formulas(network, [3 * torch.randn(1, 2, 16, 16) + 1])
    assert snap(network, found, threshold=0.1) == {}
    assert isinstance(network[0], KANActivation)


@pytest.mark.parametrize("share", ["channel", "layer", 3])
def test_a_snapped_network_is_built_again_from_its_description(tmp_path, share):
    network = small(share=share)
    found = formulas(network, [torch.randn(2, 3, 16, 16) for _ in range(2)])
    ranked = sorted(r2 for layer in found for r2 in layer.r2)
    families = snap(network, found, threshold=ranked[len(ranked) // 3])
    assert any(families.values())
    arguments = {**network.description["model"], "formulas": families}
    again = kanseg.create_model(**arguments)
    again.load_state_dict(network.state_dict())
    x = torch.randn(1, 3, 16, 16)
    assert torch.equal(again.eval()(x), network(x))
    again.save_pretrained(tmp_path / "net")
    assert torch.equal(kanseg.from_pretrained(tmp_path / "net")(x), network(x))


def test_formulas_train_beside_functions_that_stay_learned():
    network = nn.Sequential(KANActivation(3, basis="gram"))
    replace_by_formulas(network, {"0": ["sin", None, "linear"]})
    x = torch.randn(4, 3, 5, requires_grad=True)
    network(x).square().sum().backward()
    snapped = network[0]
    assert snapped.a.grad[0] != 0
    assert snapped.learned.weight.grad[1].any()
    assert not snapped.learned.weight.grad[0].any()
    expected = torch.stack([x[:, 0].sin(), nn.functional.silu(x[:, 1]), x[:, 2]], dim=1)
    torch.testing.assert_close(network(x), expected)


def test_formulas_that_do_not_belong_to_the_network_are_refused():
    network = nn.Sequential(KANActivation(2, basis="gram"))
    for wrong, message in (
        ({"1": ["sin", "sin"]}, "no learned activation '1'"),
        ({"0": ["sin"]}, "need as many formulas"),
        ({"0": ["sin", "sine"]}, "unknown formula 'sine'"),
    ):
        with pytest.raises(ValueError, match=message):
            replace_by_formulas(network, wrong)


@pytest.mark.slow
def test_formulas_are_exported_to_onnx(tmp_path):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    network = nn.Sequential(KANActivation(len(FAMILIES), basis="gram")).eval()
    replace_by_formulas(network, {"0": [*list(FAMILIES)[:-1], None]})
    x, path = torch.randn(2, len(FAMILIES), 6, 5), tmp_path / "net.onnx"
    torch.onnx.export(network, (x,), path, dynamo=True, verbose=False)
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), network(x).detach(), atol=1e-5, rtol=1e-5)


def test_the_verb_writes_a_checkpoint_that_predicts(tmp_path, capsys):
    images = make_folder(tmp_path / "data") / "images"
    write_segmenter(tmp_path / "net")
    words = ["--checkpoint", tmp_path / "net", "--input", images, "--output", tmp_path / "out"]
    main([str(word) for word in (*words, "--r2", "0.9999")])
    printed = capsys.readouterr().out
    assert "first layer" in printed
    entries = json.loads((tmp_path / "out" / "formulas.json").read_text())
    assert {"layer", "function", "formula", "r2", "exact", "words", "family"} <= entries[0].keys()
    preprocess = preprocess_from(read_description(tmp_path / "net")["preprocess"])
    image = preprocess.scale(decode_image(next(images.iterdir())))
    with torch.no_grad():
        before, after = (
            kanseg.load(tmp_path / name).model(preprocess.normalize(image)[None])
            for name in ("net", "out/snapped")
        )
    # on the images the SiLU of an untrained network is nearly the formula in its place
    assert 0 < (after - before).square().mean() < 0.01 * before.var()
    with pytest.raises(InputError, match="snapped network already"):
        main([str(word) for word in words])
    with pytest.raises(InputError, match="snapped before"):
        main(
            [
                str(w)
                for w in (*words[:1], tmp_path / "out" / "snapped", *words[2:5], tmp_path / "b")
            ]
        )


def test_a_network_without_functions_has_nothing_to_snap(tmp_path):
    data = make_folder(tmp_path / "data") / "images"
    write_segmenter(tmp_path / "net", basis="none")
    words = ["--checkpoint", tmp_path / "net", "--input", data, "--output", tmp_path / "out"]
    with pytest.raises(InputError, match="no layer has learned functions"):
        main([str(word) for word in words])
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_snapped_network_is_trained_on_and_resumes(tmp_path):
    data = make_folder(tmp_path / "data", scale=255)
    config = Config(
        run_dir=str(tmp_path / "run"),
        data=DataConfig(root=str(data), workers=0),
        model=ModelConfig("unet", "gram", options={"width": 2, "depth": 1}),
        training=TrainingConfig(epochs=1, batch_size=1, panels=0, tensorboard=False),
    )
    train(config)
    words = ["--checkpoint", tmp_path / "run", "--input", data / "images", "--epochs", 1]
    main([str(word) for word in (*words, "--output", tmp_path / "out", "--r2", "0.9")])
    before, after = (kanseg.load(tmp_path / "out" / name).model for name in ("snapped", "tuned"))
    assert type(before) is type(after)
    name = next(name for name in before.state_dict() if name.endswith("activation.c"))
    assert not torch.equal(before.state_dict()[name], after.state_dict()[name])
    # The same call goes on where an interrupted one has stopped; another one is refused.
    shutil.rmtree(tmp_path / "out" / "tuned")
    main([str(word) for word in (*words, "--output", tmp_path / "out", "--r2", "0.9")])
    assert (tmp_path / "out" / "tuned" / "best").exists()
    with pytest.raises(InputError, match="snapped network already"):
        main([str(word) for word in (*words, "--output", tmp_path / "out", "--r2", "0.8")])
    more = Config.from_yaml((tmp_path / "out" / "tuned" / "config.yaml").read_text())
    more.training.epochs = 2
    assert train(more, resume=True)["epochs"] == 2
