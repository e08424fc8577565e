"""Transcription of audio streams, with state that is carried from chunk to chunk."""

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from research.data.tokenizers import Tokenizer
from research.task import Tree
from research.tasks.speech_recognition.features import LogMel
from research.tasks.speech_recognition.models import LSTMEncoder


class Token(NamedTuple):
    """A token with its first and last output frame."""

    id: int
    first_frame: int
    last_frame: int


class Word(NamedTuple):
    """A word with its start and end time in seconds."""

    text: str
    start: float
    end: float


def group_words(tokens: Iterable[Token], tokenizer: Tokenizer, seconds: float) -> Iterator[Word]:
    """Groups tokens into words, and yields each word once it is complete.

    Args:
      tokens: in order.
      tokenizer: the tokenizer of these tokens.
      seconds: time from one output frame to the next.
    """
    pending: list[Token] = []

    def word() -> Word:
        text = tokenizer.decode([token.id for token in pending])
        return Word(text, pending[0].first_frame * seconds, (pending[-1].last_frame + 1) * seconds)

    starts, separator = tokenizer.starts_word, tokenizer.separator
    for token in tokens:
        if pending and (token.id == separator or starts[token.id]):
            yield word()
            pending = []
        if token.id != separator:
            pending.append(token)
    if pending:
        yield word()


def stream_tokens(
    blocks: Iterable[np.ndarray], features: LogMel, network: LSTMEncoder, params: Tree, chunk: int
) -> Iterator[Token]:
    """Yields the tokens of greedy search, equal to those of the whole utterance.

    Args:
      blocks: consecutive audio [samples] float32, each of any length.
      features: with `normalize="fixed"`, which does not depend on the rest of the utterance.
      network: with unidirectional LSTMs.
      params: parameters of the network.
      chunk: number of output frames to compute at once; it determines the latency.
    """
    classify = jax.jit(partial(_classify, network))
    carries, pending, frame, previous = None, None, 0, 0
    feature_blocks = _stream_features(blocks, features, chunk * network.stride)
    for inputs, frames in _network_inputs(feature_blocks, features.size, network, chunk):
        best, carries = classify(params, inputs[None], np.array([frames], np.int32), carries)
        for label in np.asarray(best)[0, :frames].tolist():
            if pending and label != previous:
                yield pending
                pending = None
            if label:
                pending = Token(label - 1, pending.first_frame if pending else frame, frame)
            frame, previous = frame + 1, label
    if pending:
        yield pending


def _classify(network: LSTMEncoder, params: Tree, x: Any, frames: Any, carries: Any) -> Any:
    """Returns the most probable class of each frame, and the LSTM states after the last."""
    log_probs, carries = network.apply(
        {"params": params}, x, frames, carries, train=False, method=network.chunk
    )
    return log_probs.argmax(-1), carries


def _stream_features(
    blocks: Iterable[np.ndarray], features: LogMel, count: int
) -> Iterator[np.ndarray]:
    """Yields the features [frames, size] of the audio, `count` frames at a time."""
    extract = jax.jit(features)
    size = (count - 1) * features.hop_length + features.window_length
    buffer, is_empty = np.empty(0, np.float32), True
    for block in blocks:
        buffer = np.concatenate([buffer, block])
        while len(buffer) >= size:
            yield np.asarray(extract(buffer[None, :size], np.array([size], np.int32))[0][0])
            buffer, is_empty = buffer[count * features.hop_length :], False
    if len(buffer) >= features.window_length or is_empty:
        padded = np.pad(buffer, (0, size - len(buffer)))
        rest, frames = extract(padded[None], np.array([len(buffer)], np.int32))
        yield np.asarray(rest)[0, : int(frames[0])]


def _network_inputs(
    feature_blocks: Iterable[np.ndarray], size: int, network: LSTMEncoder, chunk: int
) -> Iterator[tuple[np.ndarray, int]]:
    """Yields the network's inputs for `chunk` output frames, and how many frames are valid."""
    step = chunk * network.stride
    length = step - network.stride + network.window
    buffer, received, computed = np.zeros((network.look_back, size), np.float32), 0, 0
    for block in feature_blocks:
        buffer, received = np.concatenate([buffer, block]), received + len(block)
        while len(buffer) >= length:
            yield buffer[:length], chunk
            buffer, computed = buffer[step:], computed + chunk
    # The look-ahead of the last frames extends beyond the end, where features are zero.
    for remaining in range(network.num_frames(received) - computed, 0, -chunk):
        inputs = buffer[:length]
        padded = np.pad(inputs, ((0, length - len(inputs)), (0, 0)))
        yield padded, min(remaining, chunk)
        buffer = buffer[step:]
