import pytest

import kanseg
from kanseg.layers import BasicBlock, BottleneckBlock


@pytest.mark.parametrize(
    ("name", "block", "expansion", "encoder", "decoder"),
    [
        ("ukanet_18", BasicBlock, 1, 8, 8),
        ("ukanet_34", BasicBlock, 1, 16, 16),
        ("ukanet_50", BottleneckBlock, 4, 16, 16),
    ],
)
def test_blocks_and_widths_are_those_of_the_seed(name, block, expansion, encoder, decoder):
    net = kanseg.create_model(name, width=8, basis="none")
    assert net.encoder.out_channels == [
        8 * expansion,
        16 * expansion,
        32 * expansion,
        64 * expansion,
    ]
    assert sum(isinstance(m, block) for m in net.encoder.modules()) == encoder
    assert sum(isinstance(m, block) for m in net.decoder.modules()) == decoder


def test_deeper_nets_repeat_the_last_stage():
    assert kanseg.create_encoder("ukanet_18", depth=5, width=2).out_channels == [
        2,
        4,
        8,
        16,
        32,
        64,
    ]
