import copy
import pickle

import pytest
import torch
from torch import distributions as D
from torch import nn

import kanseg
from kanseg.layers import Penalty
from kanseg.models import VAE, vae_loss


@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
def test_the_loss_is_minus_the_evidence_lower_bound(likelihood):
    x, reconstruction = torch.rand(5, 2, 4, 3), torch.randn(5, 2, 4, 3)
    mean, log_variance = torch.randn(5, 6), torch.randn(5, 6)
    pixels = (
        D.Normal(reconstruction, 0.7)
        if likelihood == "gaussian"
        else D.Bernoulli(logits=reconstruction, validate_args=False)
    )
    latent = D.Normal(mean, (0.5 * log_variance).exp())
    expected = D.kl_divergence(latent, D.Normal(0.0, 1.0)).sum(1) - pixels.log_prob(x).flatten(
        1
    ).sum(1)
    torch.testing.assert_close(
        vae_loss(reconstruction, x, mean, log_variance, likelihood=likelihood, deviation=0.7),
        expected,
    )


def test_pixels_outside_0_to_1_are_no_bernoulli_s():
    vae = VAE(1, (8, 8), 3, 4, likelihood="bernoulli")
    with pytest.raises(ValueError, match="'bernoulli'.*'gaussian'"):
        vae(torch.full((2, 1, 8, 8), 1.5))


@pytest.mark.parametrize("size", [(7, 7), (28, 28), (9, 30), (1, 1)])
def test_reconstructions_have_the_size_of_the_images(size):
    reconstruction, mean, log_variance = VAE(3, size, 5, 4)(torch.randn(2, 3, *size))
    assert reconstruction.shape == (2, 3, *size)
    assert mean.shape == log_variance.shape == (2, 5)


def test_the_latent_vector_is_drawn_in_training_with_the_stated_deviation():
    vae = VAE(1, (8, 8), 3, 4)
    x = torch.randn(1, 1, 8, 8).expand(5000, -1, -1, -1)
    seen = []
    vae.decoder[0].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    _, mean, log_variance = vae(x)
    torch.testing.assert_close(seen[0].mean(0), mean[0], atol=0.06, rtol=0)
    torch.testing.assert_close(seen[0].std(0), (0.5 * log_variance[0]).exp(), atol=0.05, rtol=0)
    _, mean, _ = vae.eval()(x)
    torch.testing.assert_close(seen[1], mean)


def classifier(**options):
    return kanseg.create_model("vae_kan", 1, 2, image_size=(8, 8), latent_dim=3, width=4, **options)


def test_detached_features_are_those_of_the_autoencoder_alone():
    net, x = classifier(), torch.randn(6, 1, 8, 8)
    net(x).square().sum().backward()
    assert all(p.grad is None for p in net.front.parameters())
    assert all(p.grad is not None for p in net.head.parameters())
    together = classifier(detach=False)
    together(x).square().sum().backward()
    assert all(p.grad is not None for p in together.front.vae.encoder.parameters())


def test_the_penalty_is_the_bound_per_value_and_counts_once():
    net, x = classifier(), torch.randn(6, 1, 8, 8)
    penalty = Penalty(net, {"elbo": 0.5})
    seen = []
    net.front.vae.register_forward_hook(lambda _, __, output: seen.append(output))
    net(x)
    torch.testing.assert_close(penalty(), 0.5 * vae_loss(seen[0][0], x, *seen[0][1:]).mean() / 64)
    assert penalty() == 0
    assert net.front.vae.elbo is None
    net.eval()(x)
    assert penalty() == 0
    assert len(seen) == 1  # the encoder alone


def test_the_penalty_needs_an_autoencoder():
    with pytest.raises(ValueError, match="'elbo'"):
        Penalty(kanseg.kan([2, 2]), {"elbo": 1.0})


def test_copies_leave_the_graph_behind():
    net = classifier()
    net(torch.randn(2, 1, 8, 8))
    assert net.front.vae.elbo is not None
    assert copy.deepcopy(net).front.vae.elbo is None
    assert pickle.loads(pickle.dumps(net)).front.vae.elbo is None


def test_one_loop_of_cross_entropy_and_bound_learns_both():
    x = torch.randn(128, 1, 8, 8) * 0.1
    y = torch.arange(128) % 2
    x[y == 0, :, :4] += 2
    x[y == 1, :, :, 4:] += 2
    net = classifier(hidden=[4])
    penalty = Penalty(net, {"elbo": 1.0})
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    bounds = []
    for _ in range(80):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(x), y)
        bound = penalty()
        (loss + bound).backward()
        optimizer.step()
        bounds.append(bound.item())
    assert bounds[-1] < 0.5 * bounds[0]
    assert (net.eval()(x).argmax(1) == y).float().mean() > 0.95
    with torch.no_grad():
        reconstruction, _, _ = net.front.vae(x)
    assert (reconstruction - x).square().mean() < 0.5 * x.var()
