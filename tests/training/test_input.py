import dataclasses

import numpy as np

from research.training.input import input_pipeline
from research.training.program import Program


def order(experiment, seed, training):
    """The positions of the examples in the first two batches."""
    program = Program(dataclasses.replace(experiment, seed=seed))
    pipeline = input_pipeline(program, experiment.task.dataset("train"), training)
    return np.concatenate([batch["index"] for batch in pipeline.batches(0, 2)]).tolist()


def test_the_seed_of_the_experiment_shuffles_training_alone(toy):
    assert order(toy, 0, training=True) == order(toy, 0, training=True)
    assert order(toy, 0, training=True) != order(toy, 1, training=True)
    assert order(toy, 0, training=False) == order(toy, 1, training=False)
