import dataclasses

import jax
import pytest

from research.common.errors import ConfigError
from research.tasks.image_classification.task import ImageClassification
from research.training.clock import CompilationCounter
from research.training.loop import Trainer


@pytest.mark.parametrize(
    ("free", "problem"),
    [
        (5e4, "config.batch_size: invalid value 64: a step needs 0.0 GB of memory, and 0.0 GB are"),
        (1e3, "config.task.model: parameters and optimizer need 0.0 GB of memory, and 0.0 GB are"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_workdir_is_written(
    experiment, tmp_path, monkeypatch, free, problem
):
    monkeypatch.setattr("research.training.memory.available_bytes", lambda device: free)
    with pytest.raises(ConfigError) as error:
        Trainer(experiment, tmp_path / "run")
    assert str(error.value).startswith(problem)
    assert not (tmp_path / "run").exists()


def test_examples_are_checked_before_the_step_compiles(experiment, tmp_path, monkeypatch):
    spec = ImageClassification.batch_spec

    def without_labels(self, size, length):
        return {k: v for k, v in spec(self, size, length).items() if k != "label"}

    monkeypatch.setattr(ImageClassification, "batch_spec", without_labels)
    with pytest.raises(ConfigError, match="'label' of an example is int32"):
        Trainer(experiment, tmp_path / "run")


def test_more_accumulation_steps_need_less_memory(experiment, tmp_path, monkeypatch):
    needed = []
    monkeypatch.setattr(
        "research.training.loop.check_memory",
        lambda program, step: needed.append(step.memory_analysis().temp_size_in_bytes),
    )
    for steps in (1, 8):
        changed = dataclasses.replace(
            experiment, batch_size=1024, gradient_accumulation_steps=steps
        )
        Trainer(changed, tmp_path / str(steps))
    assert needed[1] < needed[0]


def test_the_checked_step_is_not_compiled_again(experiment, tmp_path):
    trainer = Trainer(experiment, tmp_path)
    state = trainer.program.initialize()
    batch = next(trainer.data.batches(0, 1))
    with CompilationCounter() as compilations:
        jax.block_until_ready(trainer.program.train_step(state, batch))
    assert compilations.count == 0
