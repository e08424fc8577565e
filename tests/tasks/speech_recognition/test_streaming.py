import dataclasses
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile

from research.common.errors import UserError
from research.data.tokenizers import Characters, WordPieces, Words
from research.tasks.speech_recognition.decoding import greedy_search
from research.tasks.speech_recognition.streaming import Token, Word, group_words, stream_tokens
from tests.tasks.speech_recognition.conftest import synthesize


@pytest.fixture
def emitting(task):
    """A task, and parameters whose outputs contain many tokens."""
    task = dataclasses.replace(task, tokenizer=Words()).resolve()
    params, _ = task.init(jax.random.key(0))
    head = params["head"]
    return task, {**params, "head": {**head, "kernel": head["kernel"] * 8}}


@pytest.mark.parametrize("samples", [pytest.param(100, marks=pytest.mark.slow), 7777])
@pytest.mark.parametrize("chunk", [pytest.param(1, marks=pytest.mark.slow), 5])
def test_stream_gives_the_tokens_of_the_whole(emitting, samples, chunk):
    task, params = emitting
    audio = np.random.default_rng(samples).normal(size=samples).astype(np.float32) * 0.1

    @jax.jit
    def decode(audio):
        features, frames = task.features(audio[None], jnp.array([samples]))
        log_probs = task.network.apply({"params": params}, features, frames, train=False)
        return greedy_search(log_probs, task.network.num_frames(frames), log_probs.shape[1])

    whole = decode(audio)
    blocks = np.split(audio, [700, 701, 2500])
    found = list(stream_tokens(blocks, task.features, task.network, params, chunk))
    count = int(whole.token_count[0])
    assert [token.id for token in found] == whole.tokens[0, :count].tolist()
    assert [token.first_frame for token in found] == whole.first_frame[0, :count].tolist()
    assert [token.last_frame for token in found] == whole.last_frame[0, :count].tolist()
    assert count or samples < 4000


def test_streamed_and_whole_file_give_the_same_words(emitting, tmp_path):
    task, params = emitting
    soundfile.write(tmp_path / "a.wav", np.tile(synthesize(["lo", "hi", "mid"], 16000), 3), 16000)
    task = dataclasses.replace(task, bucket_seconds=(4.0,))
    part = task.predictor().preprocess(str(tmp_path / "a.wav")).example(0, np.random.default_rng(0))
    batch = {name: jnp.asarray(array)[None] for name, array in part.items()}
    found = jax.jit(task.predict)(params, {}, batch)
    predictions = jax.tree.map(lambda x: np.asarray(x[0]), found)
    row = task.predictor().postprocess([predictions])
    streamed = list(task.predictor().stream(params, {}, tmp_path / "a.wav"))
    assert row["words"] == streamed and len(streamed) > 1
    assert row["text"] == " ".join(word["word"] for word in streamed)
    assert row["seconds"] == pytest.approx(3.15)


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        ({"model": {"bidirectional": True}}, "bidirectional"),
        ({"features": {"normalize": "utterance"}}, "whole utterance"),
        ({"decoding": {"beam_size": 4}}, "beam_size=1"),
    ],
)
def test_configs_that_cannot_stream_raise(emitting, tmp_path, change, remedy):
    task, params = emitting
    for key, fields in change.items():
        task = dataclasses.replace(task, **{key: dataclasses.replace(getattr(task, key), **fields)})
    with pytest.raises(UserError, match=remedy):
        next(iter(task.predictor().stream(params, {}, tmp_path / "a.wav")))


def test_characters_are_grouped_into_words():
    tokenizer = Characters(" abc")
    tokens = [Token(1, 2, 3), Token(2, 5, 5), Token(0, 7, 8), Token(0, 9, 9), Token(3, 10, 12)]
    assert list(group_words(tokens, tokenizer, 0.1)) == [
        Word("ab", pytest.approx(0.2), pytest.approx(0.6)),
        Word("c", pytest.approx(1.0), pytest.approx(1.3)),
    ]
    assert list(group_words([], tokenizer, 0.1)) == []


def test_words_and_pieces_are_grouped_into_words():
    text = "the cat sat on the mat"
    for tokenizer in (Words().resolve([text]), WordPieces(vocab_size=12).resolve([text] * 3)):
        tokens = [Token(id, 2 * n, 2 * n) for n, id in enumerate(tokenizer.encode(text))]
        found = list(group_words(tokens, tokenizer, 1.0))
        assert [word.text for word in found] == text.split()
        assert all(a.end <= b.start for a, b in pairwise(found))
