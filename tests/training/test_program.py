import dataclasses
from contextlib import contextmanager

import numpy as np

from research.training import program as module
from research.training.input import input_pipeline
from research.training.program import Program


def test_the_seed_of_the_experiment_selects_the_initial_parameters(toy):
    first, same, other = (
        Program(dataclasses.replace(toy, seed=seed)).initialize().params["kernel"]
        for seed in (0, 0, 1)
    )
    assert np.array_equal(first, same)
    assert not np.array_equal(first, other)


def test_a_step_names_its_compilations_and_only_these(experiment, monkeypatch):
    shown = []

    @contextmanager
    def activity(name):
        shown.append(name)
        yield

    monkeypatch.setattr(module, "activity", activity)
    program = Program(experiment)
    state = program.initialize()
    (batch,) = input_pipeline(program, experiment.task.training(), training=True).batches(0, 1)
    for _ in range(2):
        state, _ = program.train_step(state, batch)
        program.evaluate_step(state.inference, batch)
    assert shown == [
        "compiling the initialization",
        "compiling the training step for image [64, 8, 8, 1]",
        "compiling the evaluation step for image [64, 8, 8, 1]",
    ]
