import torch

import kanseg
from kanseg.explain.health import network_health
from kanseg.layers.inspection.health import measure_health


def test_every_layer_is_measured_and_the_network_stays_as_it_was():
    network = kanseg.create_model("unet", width=4, depth=2, dropout=0.2).train()
    images = [torch.randn(1, 3, 32, 32)]
    generator = torch.get_rng_state()
    assert network_health(network, iter(images)) == measure_health(network, images)
    assert torch.equal(torch.get_rng_state(), generator)
    assert network.training
