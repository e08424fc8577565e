import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.common.errors import UserError
from research.tasks.speech_recognition.decoding.arpa import parse_arpa, word_log_probs
from research.tasks.speech_recognition.decoding.language_model import compile_language_model
from research.tasks.speech_recognition.decoding.ngrams import estimate
from tests.tasks.speech_recognition.decoding.models import (
    ARPA,
    LETTERS,
    WORDS,
    conditional,
    random_arpa,
    sentences,
)


def spell_characters(word):
    if not set(word) <= set(LETTERS):
        raise UserError(f"cannot spell {word}")
    return [1 + LETTERS.index(letter) for letter in word]


def spell_pieces(word):
    """Ids 0 to 2 are letters at the start of a word, 3 to 5 letters within one."""
    return [LETTERS.index(word[0]), *(3 + LETTERS.index(letter) for letter in word[1:])]


def on_device(model):
    return jax.tree.map(jnp.asarray, model)


def by_characters(arpa):
    return on_device(compile_language_model(arpa, spell_characters, 0, np.zeros(4, bool)))


def by_pieces(arpa):
    return on_device(compile_language_model(arpa, spell_pieces, None, np.arange(6) < 3))


def joined(spelled, separator):
    between = [] if separator is None else [separator]
    return [token for i, word in enumerate(spelled) for token in (between if i else []) + word]


def follow(model, tokens):
    """Computes log-probabilities and numbers of words of token lists, on the device."""
    padded = np.array(list(itertools.zip_longest(*tokens, fillvalue=-1)))
    return jax.device_get(_follow(model, padded))


@jax.jit
def _follow(model, tokens):
    def step(state, token):
        after, log_prob, words = model.advance(state, token)
        more = lambda new, old: jnp.where(token >= 0, new, old)  # noqa: E731
        return jax.tree.map(more, after, state), (more(log_prob, 0), more(words, 0))

    state = jax.tree.map(lambda x: jnp.full(tokens.shape[1], x), model.begin())
    state, (log_prob, words) = jax.lax.scan(step, state, tokens)
    last_log_prob, last_words = model.finish(state)
    return log_prob.sum(0) + last_log_prob, words.sum(0) + last_words


@pytest.mark.parametrize("text", [random_arpa(0), estimate(sentences(1, 50), 3)])
@pytest.mark.parametrize(
    ("compiled", "spell"),
    [(by_characters, spell_characters), (by_pieces, spell_pieces)],
    ids=["characters", "pieces"],
)
def test_scores_equal_the_definition(text, compiled, spell):
    arpa, (probability, _) = parse_arpa(text), conditional(text)
    model = compiled(arpa)
    texts = [*sentences(2, 60, WORDS[::-1]), *sentences(3, 60), "abcabca b", "a"]
    tokens = [joined(map(spell, sentence.split()), model.separator) for sentence in texts]
    log_prob, words = follow(model, tokens)
    assert words.tolist() == [len(sentence.split()) for sentence in texts]
    for sentence, scored in zip(texts, log_prob, strict=True):
        known = [word if word in arpa.words else "<unk>" for word in sentence.split()]
        padded = ("<s>", *known, "</s>")
        parts = [
            math.log(probability(padded[max(0, i - 2) : i], padded[i]))
            for i in range(1, len(padded))
        ]
        np.testing.assert_allclose(word_log_probs(arpa, sentence), parts, rtol=1e-6)
        np.testing.assert_allclose(scored, sum(parts), rtol=1e-5)


def test_repeated_separators_are_not_words():
    model = by_characters(parse_arpa(ARPA))
    log_prob, words = follow(model, [[1, 0, 2], [0, 0, 1, 0, 0, 2, 0]])
    assert words.tolist() == [2, 2]
    assert log_prob[0] == log_prob[1]


def test_words_that_cannot_be_encoded_are_unknown():
    text = ARPA.replace(" b", " é")
    arpa = parse_arpa(text)
    log_prob, _ = follow(by_characters(arpa), [[2]])
    assert log_prob[0] == pytest.approx(word_log_probs(arpa, "x").sum())
    with pytest.raises(UserError, match="cannot encode any word of the language model"):
        by_characters(parse_arpa(text.replace(" a", " A")))


def test_words_with_equal_tokens_are_scored_as_the_most_probable():
    arpa = parse_arpa(ARPA)
    model = on_device(compile_language_model(arpa, lambda word: [1], 0, np.zeros(2, bool)))
    log_prob, _ = follow(model, [[1]])
    assert log_prob[0] == pytest.approx(word_log_probs(arpa, "a").sum())
