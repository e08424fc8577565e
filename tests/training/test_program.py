import dataclasses

import numpy as np

from research.training.program import Program


def test_the_seed_of_the_experiment_selects_the_initial_parameters(toy):
    first, same, other = (
        Program(dataclasses.replace(toy, seed=seed)).initialize().params["kernel"]
        for seed in (0, 0, 1)
    )
    assert np.array_equal(first, same)
    assert not np.array_equal(first, other)
