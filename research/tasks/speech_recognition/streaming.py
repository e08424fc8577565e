"""Transcription of sound as it comes: piece by piece, with what the pieces have in common kept."""

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
    """A token and the output frames on which it was heard."""

    id: int
    first: int
    last: int


class Word(NamedTuple):
    """A word and its place in seconds."""

    text: str
    start: float
    end: float


def words(tokens: Iterable[Token], tokenizer: Tokenizer, seconds: float) -> Iterator[Word]:
    """The words that tokens spell, each as soon as it is complete.

    Args:
      tokens: in order.
      tokenizer: whose tokens they are.
      seconds: from one output frame to the next.
    """
    held: list[Token] = []

    def word() -> Word:
        text = tokenizer.decode([token.id for token in held])
        return Word(text, held[0].first * seconds, (held[-1].last + 1) * seconds)

    starts, separator = tokenizer.starts_word, tokenizer.separator
    for token in tokens:
        if held and (token.id == separator or starts[token.id]):
            yield word()
            held = []
        if token.id != separator:
            held.append(token)
    if held:
        yield word()


def stream(
    blocks: Iterable[np.ndarray], features: LogMel, network: LSTMEncoder, params: Tree, chunk: int
) -> Iterator[Token]:
    """The tokens of greedy decoding, as those of the whole utterance.

    Args:
      blocks: audio in consecutive pieces [samples] float32 of any length.
      features: normalised without the rest of the utterance, `normalize="fixed"`.
      network: with LSTMs in one direction.
      params: the network's.
      chunk: output frames that are computed at once; the delay.
    """
    best_of = jax.jit(partial(_best, network))
    carries, held, frame, before = None, None, 0, 0
    heard = _features(blocks, features, chunk * network.stride)
    for piece, frames in _pieces(heard, features.size, network, chunk):
        best, carries = best_of(params, piece[None], np.array([frames]), carries)
        for now in np.asarray(best)[0, :frames].tolist():
            if held and now != before:
                yield held
                held = None
            if now:
                held = Token(now - 1, held.first if held else frame, frame)
            frame, before = frame + 1, now
    if held:
        yield held


def _best(network: LSTMEncoder, params: Tree, x: Any, frames: Any, carries: Any) -> Any:
    """The most probable class of each frame, and the states after the last."""
    log_probs, carries = network.apply(
        {"params": params}, x, frames, carries, train=False, method=network.chunk
    )
    return log_probs.argmax(-1), carries


def _features(blocks: Iterable[np.ndarray], features: LogMel, count: int) -> Iterator[np.ndarray]:
    """All frames [frames, size] of the audio, `count` at a time."""
    of_audio = jax.jit(features)
    size = (count - 1) * features.hop + features.window
    held, any_yet = np.empty(0, np.float32), False
    for block in blocks:
        held = np.concatenate([held, block])
        while len(held) >= size:
            yield np.asarray(of_audio(held[None, :size], np.array([size]))[0][0])
            held, any_yet = held[count * features.hop :], True
    if len(held) >= features.window or not any_yet:
        padded = np.pad(held, (0, size - len(held)))
        found, frames = of_audio(padded[None], np.array([len(held)]))
        yield np.asarray(found)[0, : int(frames[0])]


def _pieces(
    features: Iterable[np.ndarray], bands: int, network: LSTMEncoder, chunk: int
) -> Iterator[tuple[np.ndarray, int]]:
    """The network's inputs for `chunk` output frames at a time, and how many of these are valid."""
    step = chunk * network.stride
    size = step - network.stride + network.window
    held, heard, given = np.zeros((network.look_back, bands), np.float32), 0, 0
    for part in features:
        held, heard = np.concatenate([held, part]), heard + len(part)
        while len(held) >= size:
            yield held[:size], chunk
            held, given = held[step:], given + chunk
    # The last frames look ahead to where nothing is any more.
    for rest in range(network.frames(heard) - given, 0, -chunk):
        piece = held[:size]
        yield np.pad(piece, ((0, size - len(piece)), (0, 0))), min(rest, chunk)
        held = held[step:]
