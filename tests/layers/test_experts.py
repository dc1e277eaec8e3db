import copy
import io
import pickle
from functools import partial
from statistics import NormalDist

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import kanseg
from kanseg.layers import ConvExperts, KANConv1d, KANConv2d, Penalty, balance_loss, kan_conv

bases = pytest.mark.parametrize("basis", ["bspline", "gram", "none"])


def experts(basis="gram", channels=3, out=4, **options):
    """A mixture whose gate is not at its start of zero."""
    layer = ConvExperts(channels, out, 3, padding=1, conv=kan_conv(basis=basis), **options)
    with torch.no_grad():
        layer.gate.normal_()
    return layer


def squared_variation(amounts):
    mean = sum(amounts) / len(amounts)
    return sum((a - mean) ** 2 for a in amounts) / len(amounts) / mean**2


def test_gates_are_the_softmax_of_the_best_and_zero_elsewhere():
    layer = experts(num_experts=5, top_k=2).eval()
    means = torch.randn(7, 3)
    gates, chosen, load = layer.gates(means)
    assert load is None
    for row, logits in enumerate((means @ layer.gate.T).tolist()):
        best = sorted(range(5), key=lambda e: -logits[e])[:2]
        whole = sum(torch.tensor(logits[e]).exp() for e in best)
        expected = [
            float(torch.tensor(logits[e]).exp() / whole) if e in best else 0.0 for e in range(5)
        ]
        assert gates[row].tolist() == pytest.approx(expected, abs=1e-6)
        assert set(chosen[row].nonzero().flatten().tolist()) == set(best)
    torch.testing.assert_close(gates.sum(1), torch.ones(7))


def test_the_output_is_the_weighted_sum_of_the_chosen_experts():
    layer = experts(num_experts=4, top_k=2).eval()
    x = torch.randn(5, 3, 6, 7)
    gates, _, _ = layer.gates(x.mean(dim=(2, 3)))
    for i in range(5):
        expected = sum(
            gates[i, e] * layer.experts[e](x[i : i + 1]) for e in range(4) if gates[i, e] > 0
        )
        torch.testing.assert_close(layer(x)[i : i + 1], expected, rtol=1e-5, atol=1e-5)


def test_experts_have_weights_of_their_own_from_the_start():
    first, second = experts(num_experts=2).experts
    assert not torch.equal(first.basis_conv.weight, second.basis_conv.weight)
    assert not torch.equal(first.base_conv.weight, second.base_conv.weight)


@bases
@pytest.mark.parametrize("size", [(61, 83), (33, 100), (1, 1)])
def test_a_sample_does_not_depend_on_its_batch_mates(basis, size):
    layer = experts(basis, num_experts=4, top_k=2).eval()
    fresh = ConvExperts(
        3, 4, 3, padding=1, conv=kan_conv(basis=basis)
    ).eval()  # gates all equal: the choice among them must be the same too
    a, b = torch.randn(1, 3, *size), 30 * torch.randn(4, 3, *size)
    for each in (layer, fresh):
        torch.testing.assert_close(each(torch.cat([b, a]))[-1:], each(a), rtol=1e-5, atol=1e-5)


def test_the_balance_is_the_variation_of_importance_and_load():
    """With the noise drawn again, and the numbers worked out one by one (Shazeer et al. 2017, eqs.
    6 to 11).
    """
    layer = experts(num_experts=4, top_k=2)
    nn.init.normal_(layer.spread)
    x = torch.randn(6, 3, 5, 5)
    torch.manual_seed(1)
    layer(x)
    torch.manual_seed(1)
    means = x.mean(dim=(2, 3))
    clean = means @ layer.gate.T
    deviation = nn.functional.softplus(means @ layer.spread.T) + 0.01
    noisy = clean + torch.randn(6, 4) * deviation
    importance, load = [0.0] * 4, [0.0] * 4
    for row in range(6):
        values = noisy[row].tolist()
        best = sorted(range(4), key=lambda e: -values[e])[:2]
        shares = noisy[row, best].softmax(0).tolist()
        for e, share in zip(best, shares, strict=True):
            importance[e] += share
        for e in range(4):
            second_of_the_others = sorted(
                (v for other, v in enumerate(values) if other != e), reverse=True
            )[1]
            load[e] += NormalDist().cdf(
                (clean[row, e].item() - second_of_the_others) / deviation[row, e].item()
            )
    assert balance_loss(layer).item() == pytest.approx(
        squared_variation(importance) + squared_variation(load), rel=1e-4
    )


def test_the_balance_reaches_gate_and_noise_and_is_forgotten():
    model = nn.Sequential(experts(num_experts=4), experts(channels=4, num_experts=4))
    model(torch.randn(8, 3, 5, 5))
    total = balance_loss(model)
    total.backward()
    for layer in model:
        assert layer.gate.grad.abs().max() > 0
        assert layer.spread.grad.abs().max() > 0
    assert balance_loss(model) == 0.0
    model.eval()(torch.randn(2, 3, 5, 5))
    with torch.no_grad():
        model.train()(torch.randn(2, 3, 5, 5))
    assert balance_loss(model) == 0.0


def test_steps_on_the_balance_spread_the_samples():
    layer = experts("none", num_experts=4, top_k=2)
    with torch.no_grad():
        layer.gate.zero_()[0] = 3.0  # for images of positive mean
    x = torch.rand(64, 3, 2, 2) + 0.5
    optimizer = torch.optim.Adam([layer.gate, layer.spread], lr=0.05)

    def shares():
        return layer.gates(x.mean(dim=(2, 3)))[0].sum(0)

    assert squared_variation(shares().tolist()) > 0.5
    for _ in range(150):
        optimizer.zero_grad()
        layer(x)
        balance_loss(layer).backward()
        optimizer.step()
    assert squared_variation(shares().tolist()) < 0.1


def test_a_penalty_collects_it_with_its_weight():
    layer = experts(num_experts=4)
    penalty = Penalty(layer, {"balance": 0.5, "weights_l1": 0.0})
    x = torch.randn(8, 3, 5, 5)
    torch.manual_seed(1)
    layer(x)
    found = penalty()
    penalty.remove()
    torch.manual_seed(1)
    layer(x)
    torch.testing.assert_close(found, 0.5 * balance_loss(layer))
    with pytest.raises(ValueError, match="'balance'"):
        Penalty(KANConv2d(2, 2, 3), {"balance": 1.0})


def test_checkpointed_mixtures_count_once():
    layer = experts(num_experts=4)
    penalty = Penalty(layer, {"balance": 1.0})
    x = torch.randn(8, 3, 5, 5, requires_grad=True)
    for _ in range(2):
        y = checkpoint(layer, x, use_reentrant=False)
        found = penalty()
        (y.sum() + found).backward()
        assert found > 0
    assert penalty() == 0.0


@bases
def test_every_parameter_has_a_gradient_and_with_all_experts_every_one_moves(basis):
    layer = experts(basis, num_experts=6, top_k=1)
    layer(torch.randn(2, 3, 5, 5)).square().sum().backward()
    assert all(p.grad is not None for p in layer.experts.parameters())
    idle = [all((p.grad == 0).all() for p in expert.parameters()) for expert in layer.experts]
    assert 4 <= sum(idle) <= 5
    layer = experts(basis, num_experts=3, top_k=3)
    before = {name: value.clone() for name, value in layer.named_parameters()}
    (layer(torch.randn(4, 3, 5, 5)) * torch.randn(4, 4, 5, 5)).sum().backward()
    torch.optim.SGD(layer.parameters(), lr=1.0).step()
    assert all(not torch.equal(before[name], value) for name, value in layer.named_parameters())


@bases
def test_state_copies_and_pickles_keep_the_function(basis):
    layer = experts(basis)
    layer(torch.randn(4, 3, 5, 5))  # leaves a balance that hangs on a graph
    twin = experts(basis)
    twin.load_state_dict(layer.state_dict())
    stream = io.BytesIO()
    pickle.dump(layer, stream)
    stream.seek(0)
    x = torch.randn(2, 3, 5, 5)
    for other in (twin, copy.deepcopy(layer), pickle.load(stream)):
        assert torch.equal(other.eval()(x), layer.eval()(x))


def test_exported_mixtures_compute_the_same_for_other_samples():
    layer = experts(num_experts=3, top_k=2).eval()
    program = torch.export.export(layer, (torch.randn(3, 3, 6, 6),)).module()
    x = 5 * torch.randn(3, 3, 6, 6)
    torch.testing.assert_close(program(x), layer(x), rtol=1e-4, atol=1e-5)
    assert layer(x[:0]).shape == (0, 4, 6, 6)


def test_sequences_autocast_and_strides_work():
    layer = ConvExperts(3, 4, 3, conv=partial(KANConv1d, basis="gram"), stride=2, padding=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(torch.randn(4, 3, 11))
    assert y.shape == (4, 4, 6)
    (y.float().square().sum() + balance_loss(layer)).backward()
    assert torch.isfinite(layer.gate.grad).all()


def test_every_convolution_of_a_network_but_the_stem_is_a_mixture():
    net = kanseg.create_model(
        "ukanet_18", width=2, depth=2, basis="legendre", degree=2, experts=3, top_k=1
    )
    plain = kanseg.create_model("ukanet_18", width=2, depth=2, basis="legendre", degree=2)
    mixtures = [m for m in net.modules() if isinstance(m, ConvExperts)]
    assert all(len(m.experts) == 3 and m.top_k == 1 for m in mixtures)
    kan = [m for m in net.modules() if isinstance(m, KANConv2d)]
    assert len(mixtures) == sum(isinstance(m, KANConv2d) for m in plain.modules()) - 1
    assert len(kan) == 3 * len(mixtures) + 1
    assert {m.activation.basis.degree for m in kan[1:]} == {2}
    assert net.eval()(torch.randn(1, 3, 61, 83)).shape == (1, 2, 61, 83)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"experts": 2, "top_k": 3}, "top_k=3"),
        ({"top_k": 1}, "top_k=1"),
        ({"expert": 2}, "'experts'"),
    ],
)
def test_bad_options_are_told(options, message):
    with pytest.raises(ValueError, match=message):
        kanseg.create_model("unet", width=2, **options)


@pytest.mark.filterwarnings("ignore")
def test_a_traced_mixture_chooses_by_the_samples_that_it_is_given():
    layer = experts(num_experts=3, top_k=1).eval()
    traced = torch.jit.trace(layer, torch.randn(4, 3, 6, 6))
    for x in (torch.randn(4, 3, 6, 6), torch.randn(7, 3, 9, 5)):
        torch.testing.assert_close(traced(x), layer(x), rtol=1e-4, atol=1e-5)


def test_on_the_device_meta_a_mixture_gives_the_shape():
    with torch.device("meta"):
        layer, x = experts(), torch.randn(2, 3, 6, 7)
    assert layer(x).shape == (2, 4, 6, 7)
