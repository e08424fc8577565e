"""A small task: reverse the letters of a word."""

import numpy as np
import pytest

from research.data.tokenizers import Characters
from research.hardware.mesh import MeshConfig
from research.tasks.sequence_to_sequence.data import ParallelText
from research.tasks.sequence_to_sequence.models import AttentionLSTM, Transformer
from research.tasks.sequence_to_sequence.task import SequenceToSequence
from research.training.experiment import Experiment
from research.training.loop import Trainer
from research.training.optimizer import Optimizer

MODELS = {
    "lstm": AttentionLSTM(embedding_dim=8, features=12, num_encoder_layers=2, num_decoder_layers=2),
    "transformer": Transformer(
        features=16, num_heads=4, feedforward_dim=24, num_encoder_layers=2, num_decoder_layers=2
    ),
}


@pytest.fixture(params=[pytest.param("lstm", marks=pytest.mark.slow), "transformer"])
def model(request):
    return MODELS[request.param]


def write_backwards(folder, name, count, seed):
    """Writes `NAME.tsv`: words of one to eight letters from a to f, and their reverses."""
    rng = np.random.default_rng(seed)
    words = ["".join(rng.choice(list("abcdef"), rng.integers(1, 9))) for _ in range(count)]
    path = folder / f"{name}.tsv"
    path.write_text("".join(f"{word}\t{word[::-1]}\n" for word in words))
    return str(path)


@pytest.fixture(scope="session")
def backwards(tmp_path_factory):
    """A source with 200 training words, and 20 in each of the other splits."""
    folder = tmp_path_factory.mktemp("backwards")
    splits = {"train": 200, "validation": 20, "test": 20}
    files = {
        name: (write_backwards(folder, name, count, seed),)
        for seed, (name, count) in enumerate(splits.items())
    }
    return ParallelText(**files)


@pytest.fixture
def task(backwards):
    """An unresolved task."""
    return SequenceToSequence(
        source=backwards,
        output_tokenizer=Characters(),
        model=MODELS["lstm"],
        scoring="pronunciation",
        max_length=12,
        num_buckets=2,
    )


def experiment(task, **changes):
    given = {
        "duration": "30 epochs",
        "batch_size": 32,
        "optimizer": Optimizer(learning_rate=1e-2),
        "mesh": MeshConfig(devices=1),
        "evaluate_every": "0 steps",
    }
    return Experiment(task=task, **(given | changes))


@pytest.fixture(scope="package")
def run(tmp_path_factory, backwards):
    """A run that reverses some words correctly."""
    task = SequenceToSequence(
        source=backwards,
        output_tokenizer=Characters(),
        model=MODELS["lstm"].clone(features=32, num_encoder_layers=1, num_decoder_layers=1),
        scoring="pronunciation",
        max_length=12,
        num_buckets=2,
    )
    return Trainer(experiment(task), tmp_path_factory.mktemp("runs") / "backwards").train()[0]
