import math

import numpy as np
import pytest

from research.common.errors import UserError
from research.tasks.speech_recognition.decoding.arpa import parse_arpa, word_log_probs
from research.tasks.speech_recognition.decoding.ngrams import estimate
from tests.tasks.speech_recognition.decoding.models import conditional, sentences


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize(
    "text", [sentences(0, 300), ["a b", "b a"], ["c"] * 20], ids=["varied", "two", "regular"]
)
def test_probabilities_of_every_context_sum_to_one(text, order):
    probability, table = conditional(estimate(text, order))
    words = [gram[0] for gram in table if len(gram) == 1 and gram != ("<s>",)]
    assert {"</s>", "<unk>", *" ".join(text).split()} == set(words)
    contexts = [gram for gram in table if len(gram) < order and gram[-1] != "</s>"]
    for context in [(), *contexts]:
        p = [probability(context, word) for word in words]
        assert min(p) > 0
        assert sum(p) == pytest.approx(1, abs=1e-5)


def test_estimates_by_hand():
    # n1 = 5, n2 = 2, n3 = n4 = 1: the discounts are 5/9, 7/6 and 7/9.
    probability, _ = conditional(estimate(["p q r s t t u u v v v w w w w"], 1))
    assert probability((), "<unk>") == pytest.approx(1 / 24, rel=1e-5)
    assert probability((), "v") == pytest.approx((3 - 7 / 9) / 16 + 1 / 24, rel=1e-5)
    assert probability((), "t") == pytest.approx((2 - 7 / 6) / 16 + 1 / 24, rel=1e-5)
    # No count occurs three times: the discounts are 1/2 and 1. "a" follows one distinct word.
    probability, _ = conditional(estimate(["a b", "a c"], 2))
    assert probability((), "a") == pytest.approx(0.5 / 5 + 0.5 / 5, rel=1e-5)
    assert probability(("a",), "b") == pytest.approx(0.5 / 2 + 0.5 * 0.2, rel=1e-5)
    assert probability(("<s>",), "a") == pytest.approx((2 - 1) / 2 + 0.5 * 0.2, rel=1e-5)


def test_higher_orders_lower_the_perplexity():
    rng = np.random.default_rng(0)
    follows = rng.dirichlet(np.full(30, 0.05), 30)

    def chain():
        words = [rng.integers(30)]
        while len(words) < 8:
            words.append(rng.choice(30, p=follows[words[-1]]))
        return " ".join(f"w{word}" for word in words)

    train, test = ([chain() for _ in range(count)] for count in (1000, 50))
    perplexity = {}
    for order in (1, 2, 3):
        arpa = parse_arpa(estimate(train, order))
        log_probs = np.concatenate([word_log_probs(arpa, sentence) for sentence in test])
        perplexity[order] = math.exp(-log_probs.mean())
    assert perplexity[2] < 0.4 * perplexity[1]
    assert perplexity[3] < 1.1 * perplexity[2]


@pytest.mark.parametrize(
    ("text", "problem"),
    [([" ", ""], "missing sentences"), (["a <s> b"], "invalid sentence 'a <s> b'")],
)
def test_invalid_texts_raise(text, problem):
    with pytest.raises(UserError, match=problem):
        estimate(text, 2)
