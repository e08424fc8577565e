import itertools
from collections import defaultdict
from functools import cache, partial

import jax
import numpy as np
import pytest

from research.tasks.speech_recognition.decoding import greedy_search, prefix_beam_search
from research.tasks.speech_recognition.decoding.arpa import parse_arpa, word_log_probs
from research.tasks.speech_recognition.decoding.language_model import compile_language_model
from research.tasks.speech_recognition.decoding.ngrams import estimate

BATCH, FRAMES, CAPACITY = 40, 12, 12
WEIGHT, BONUS = 0.8, 0.7
TEXT = ["a b", "a ba", "ba a b", "b a", "aa b a", "ba ba", "a a a"] * 3
ARPA = parse_arpa(estimate(TEXT, 2))

greedy = jax.jit(partial(greedy_search, capacity=CAPACITY))
beam_search = jax.jit(
    prefix_beam_search, static_argnames=("capacity", "beam_size", "tokens_per_frame")
)


class Characters:
    """Ids 0, 1, 2 are the space, "a" and "b"."""

    model = compile_language_model(
        ARPA, lambda word: [" ab".index(c) for c in word], 0, np.zeros(3, bool)
    )

    @staticmethod
    def text(tokens):
        return "".join(" ab"[token] for token in tokens)


class Pieces:
    """Ids 0 and 1 are "a" and "b" at the start of a word, id 2 is "a" within a word."""

    model = compile_language_model(
        ARPA,
        lambda word: ["ab".index(word[0]), *(" a".index(c) + 1 for c in word[1:])],
        None,
        np.arange(3) < 2,
    )

    @staticmethod
    def text(tokens):
        begun = "?" if tokens[:1] == (2,) else ""  # no word of the lexicon starts with this token
        return begun + "".join((" a", " b", "a")[token] for token in tokens).lstrip()


def narrow(log_probs, frames, weight=WEIGHT, bonus=BONUS):
    """Searches with 6 prefixes and the 2 best tokens of each frame."""
    return beam_search(log_probs, frames, CAPACITY, 6, 2, Pieces.model, weight, bonus)


def random_log_probs(seed, frames=FRAMES):
    logits = 2 * np.random.default_rng(seed).normal(size=(BATCH, frames, 4)).astype(np.float32)
    return np.asarray(jax.nn.log_softmax(logits))


def certain(*alignments):
    """Returns log-probabilities and frames that make these alignments almost certain."""
    log_probs = np.full((BATCH, FRAMES, 4), -9.0, np.float32)
    for row, alignment in zip(log_probs, alignments, strict=False):
        row[np.arange(len(alignment)), alignment] = -0.1
    empty = [0] * (BATCH - len(alignments))
    return log_probs, np.array([*map(len, alignments), *empty], np.int32)


def collapse(alignment):
    """Returns the tokens with their first and last frames, by the definition of CTC."""
    runs = itertools.groupby(range(len(alignment)), lambda frame: alignment[frame])
    frames = [(label, list(run)) for label, run in runs]
    return [(label - 1, run[0], run[-1]) for label, run in frames if label]


def decoded(hypothesis, i):
    """Returns the same of a hypothesis, and checks that its padding is -1."""
    count = int(hypothesis.token_count[i])
    rows = [
        np.asarray(x[i]) for x in (hypothesis.tokens, hypothesis.first_frame, hypothesis.last_frame)
    ]
    assert all((row[count:] == -1).all() for row in rows)
    return list(zip(*(row[:count].tolist() for row in rows), strict=True))


@cache
def whole_score(kind, tokens):
    """Returns the score of the words of a finished hypothesis."""
    log_probs = word_log_probs(ARPA, kind.text(tokens))
    return WEIGHT * log_probs.sum() + BONUS * (len(log_probs) - 1)


@cache
def prefix_score(kind, tokens):
    """Returns the score of the complete words of a prefix."""
    text = kind.text(tokens)
    log_probs = word_log_probs(ARPA, text[: text.rfind(" ") + 1])[:-1]
    return WEIGHT * log_probs.sum() + BONUS * len(log_probs)


@pytest.mark.parametrize("decode", [greedy, partial(narrow, weight=0.0, bonus=0.0)])
def test_hand_made_alignments(decode):
    log_probs, frames = certain([0, 1, 1, 0, 1, 2, 2, 2, 0, 3], [3, 3, 0, 0, 3, 0, 2], [])
    found = [[(0, 1, 2), (0, 4, 4), (1, 5, 7), (2, 9, 9)], [(2, 0, 1), (2, 4, 4), (1, 6, 6)], []]
    hypothesis = decode(log_probs, frames)
    assert [decoded(hypothesis, i) for i in range(3)] == found
    np.testing.assert_allclose(hypothesis.score[:3], [-1.0, -0.7, 0], rtol=1e-5)


def test_tokens_beyond_the_capacity_are_dropped():
    log_probs, frames = certain([1, 2, 3], [1, 2])
    hypothesis = jax.jit(greedy_search, static_argnums=2)(log_probs, frames, 2)
    assert decoded(hypothesis, 0) == decoded(hypothesis, 1) == [(0, 0, 0), (1, 1, 1)]


@pytest.mark.parametrize(
    "decode",
    [
        lambda *batch: beam_search(*batch, CAPACITY, beam_size=1, tokens_per_frame=1),
        partial(narrow, weight=0.0, bonus=0.0),
    ],
    ids=["beam_size_1", "beam_size_6"],
)
def test_without_a_language_model_any_beam_finds_the_best_path(decode):
    for seed in range(10):
        rng = np.random.default_rng(seed)
        batch = random_log_probs(seed), rng.integers(0, FRAMES + 1, BATCH, np.int32)
        jax.tree.map(np.testing.assert_array_equal, greedy(*batch), decode(*batch))


@pytest.mark.parametrize("language", [0, 1])
def test_a_wide_beam_finds_the_best_of_all_alignments(language):
    """Compares with the enumeration of all alignments of five frames."""
    alignments = np.array(list(itertools.product(range(4), repeat=5)))
    prefixes = [tuple(t for t, _, _ in collapse(alignment)) for alignment in alignments.tolist()]
    log_probs = random_log_probs(0, 5)
    acoustic = log_probs[:, np.arange(5), alignments].sum(-1)
    words = np.array([whole_score(Characters, prefix) for prefix in prefixes])
    scores = acoustic + language * words
    hypothesis = beam_search(
        log_probs,
        np.full(BATCH, 5, np.int32),
        CAPACITY,
        beam_size=len(set(prefixes)),
        tokens_per_frame=3,
        language_model=Characters.model,
        language_model_weight=language * WEIGHT,
        word_bonus=language * BONUS,
    )
    best = scores.argmax(1)
    for i in range(BATCH):
        assert decoded(hypothesis, i) == collapse(alignments[best[i]].tolist())
    np.testing.assert_allclose(hypothesis.score, scores.max(1), rtol=1e-4)
    assert ((best != acoustic.argmax(1)).mean() > 0.3) == bool(language)


def search_by_definition(log_probs, kind, beam_size, tokens_per_frame):
    """Searches with dictionaries of prefixes, with the scores that end in a blank and a token."""
    kept = {(): (0.0, -np.inf)}
    for frame in log_probs:
        grown = defaultdict(lambda: np.full(2, -np.inf))
        for prefix, (blank, token) in kept.items():
            last = prefix[-1] if prefix else -1
            stays = max(blank, token) + frame[0], token + frame[last + 1]
            grown[prefix] = np.maximum(grown[prefix], stays)
            for new in np.argsort(-frame[1:])[:tokens_per_frame].tolist():
                score = (blank if new == last else max(blank, token)) + frame[new + 1]
                longer = (*prefix, new)
                grown[longer] = np.maximum(grown[longer], (-np.inf, score))
        rank = {prefix: max(pair) + prefix_score(kind, prefix) for prefix, pair in grown.items()}
        best = sorted(rank, key=rank.__getitem__, reverse=True)[:beam_size]
        kept = {prefix: grown[prefix] for prefix in best}
    scores = {prefix: max(pair) + whole_score(kind, prefix) for prefix, pair in kept.items()}
    return max(scores.items(), key=lambda item: item[1])


def test_a_narrow_beam_equals_the_definition():
    log_probs = random_log_probs(1)
    hypothesis = narrow(log_probs, np.full(BATCH, FRAMES, np.int32))
    for i, utterance in enumerate(log_probs.astype(np.float64)):
        tokens, score = search_by_definition(utterance, Pieces, beam_size=6, tokens_per_frame=2)
        assert tuple(token for token, _, _ in decoded(hypothesis, i)) == tokens
        assert hypothesis.score[i] == pytest.approx(score, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("decode", [greedy, narrow])
def test_result_does_not_depend_on_padding_and_other_examples(decode):
    log_probs = random_log_probs(2)
    frames = np.arange(BATCH, dtype=np.int32) % (FRAMES + 1)
    padded = np.where(np.arange(FRAMES)[:, None] < frames[:, None, None], log_probs, np.nan)
    padded[-1] = -1.0
    one, other = decode(log_probs, frames), decode(padded[::-1], frames[::-1])
    assert (one.token_count > 5).any()
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[:-1], b[:0:-1]), one, other)
