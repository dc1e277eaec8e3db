import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt

from kanseg.data.distances import distances


@pytest.mark.parametrize("size", [(32, 32), (61, 83), (1, 40), (300, 200)])
def test_distances_are_exact(size):
    side = np.random.default_rng(0).random(size) < 0.01
    side[0, 0] = True
    np.testing.assert_array_equal(distances(side), distance_transform_edt(~side))


def test_every_call_gives_the_same_bits():
    side = np.zeros((32, 32), bool)
    side[7:20, 3:9] = True
    assert len({distances(side).tobytes() for _ in range(50)}) == 1
