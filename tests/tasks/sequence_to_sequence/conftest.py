"""A small language: words and their letters backwards."""

import numpy as np
import pytest

from research.data.tokenizers import Characters
from research.tasks.sequence_to_sequence.attention_lstm import AttentionLSTM
from research.tasks.sequence_to_sequence.data import ParallelText
from research.tasks.sequence_to_sequence.task import SequenceToSequence
from research.tasks.sequence_to_sequence.transformer import Transformer

MODELS = {
    "lstm": AttentionLSTM(embedding=8, features=12, encoder_layers=2, decoder_layers=2),
    "transformer": Transformer(
        features=16, heads=4, feedforward=24, encoder_layers=2, decoder_layers=2
    ),
}


@pytest.fixture(params=list(MODELS))
def model(request):
    return MODELS[request.param]


def write_backwards(folder, name, count, seed):
    """`NAME.tsv`: words of one to eight letters of six, and the same backwards."""
    rng = np.random.default_rng(seed)
    words = ["".join(rng.choice(list("abcdef"), rng.integers(1, 9))) for _ in range(count)]
    path = folder / f"{name}.tsv"
    path.write_text("".join(f"{word}\t{word[::-1]}\n" for word in words))
    return str(path)


@pytest.fixture(scope="session")
def backwards(tmp_path_factory):
    """A source of 200 words to learn from, and 20 each for the other splits."""
    folder = tmp_path_factory.mktemp("backwards")
    splits = {"train": 200, "validation": 20, "test": 20}
    files = {
        name: (write_backwards(folder, name, count, seed),)
        for seed, (name, count) in enumerate(splits.items())
    }
    return ParallelText(**files)


@pytest.fixture
def task(backwards):
    """Not resolved yet."""
    return SequenceToSequence(
        source=backwards,
        output_tokenizer=Characters(),
        model=MODELS["lstm"],
        scoring="pronunciation",
        longest=12,
        buckets=2,
    )
