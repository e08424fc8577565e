import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.common.errors import UserError
from research.tasks.speech_recognition.arpa import parse_arpa, word_log_probs
from research.tasks.speech_recognition.language_model import compile_language_model
from research.tasks.speech_recognition.ngrams import estimate

LETTERS = "abc"
WORDS = ["".join(word) for n in (1, 2, 3) for word in itertools.product(LETTERS, repeat=n)]

ARPA = """\
\\data\\
ngram 1=5
ngram 2=3
ngram 3=1

\\1-grams:
-99 <s> -0.5
-0.9 </s>
-2.0 <unk>
-0.4 a -0.3
-0.6 b -0.2

\\2-grams:
-0.1 <s> a -0.7
-0.35 a b
-0.45 b a -0.05

\\3-grams:
-0.05 <s> a b

\\end\\
"""


def sentences(seed, count, words=WORDS, longest=6):
    rng = np.random.default_rng(seed)
    weights = 1 / np.arange(1, len(words) + 1)
    lengths = rng.integers(1, longest + 1, count)
    return [" ".join(rng.choice(words, n, p=weights / weights.sum())) for n in lengths]


def random_arpa(seed):
    """Three orders; many suffixes of n-grams are not listed, many contexts have no backoff."""
    rng = np.random.default_rng(seed)
    words = ["<s>", "</s>", "<unk>", *WORDS[:10]]
    grams = [[(word,) for word in words]]
    for _ in range(2):
        grown = [(*g, w) for g in grams[-1] if g[-1] != "</s>" for w in words[1:]]
        grams.append([grown[i] for i in np.sort(rng.permutation(len(grown))[:60])])
    lines = ["\\data\\", *(f"ngram {n}={len(g)}" for n, g in enumerate(grams, 1))]
    for order, listed in enumerate(grams, 1):
        lines += ["", f"\\{order}-grams:"]
        for gram in listed:
            backoff = f"\t{rng.normal():.3f}" if order < 3 and rng.random() < 0.5 else ""
            lines.append(f"{-rng.exponential():.3f}\t{' '.join(gram)}{backoff}")
    return "\n".join([*lines, "", "\\end\\", ""])


def conditional(text):
    """p(word | context) after the definition of back-off, over the lines of an ARPA file."""
    table = {}
    for line in text.splitlines():
        order = 0 if not line or line[0] in "\\n" else len(line.split("\t")[1].split())
        if order:
            fields = line.split("\t")
            table[tuple(fields[1].split())] = float(fields[0]), float((*fields, "0")[2])

    def log10(context, word):
        if (*context, word) in table:
            return table[(*context, word)][0]
        return table.get(context, (0, 0))[1] + log10(context[1:], word)

    return lambda context, word: 10 ** log10(context, word), table


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize(
    "text", [sentences(0, 300), ["a b", "b a"], ["c"] * 20], ids=["varied", "two", "regular"]
)
def test_the_probabilities_of_every_context_sum_to_one(text, order):
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
    # No count occurs three times: the discounts are 1/2 and 1. "a" follows one word only.
    probability, _ = conditional(estimate(["a b", "a c"], 2))
    assert probability((), "a") == pytest.approx(0.5 / 5 + 0.5 / 5, rel=1e-5)
    assert probability(("a",), "b") == pytest.approx(0.5 / 2 + 0.5 * 0.2, rel=1e-5)
    assert probability(("<s>",), "a") == pytest.approx((2 - 1) / 2 + 0.5 * 0.2, rel=1e-5)


def test_longer_contexts_predict_text_that_has_them():
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
    ("text", "problem"), [([" ", ""], "no sentence"), (["a <s> b"], "'a <s> b' holds <s>")]
)
def test_text_that_no_model_comes_from(text, problem):
    with pytest.raises(UserError, match=problem):
        estimate(text, 2)


def test_log_probabilities_by_hand():
    arpa = parse_arpa(ARPA)
    by_hand = {
        "a b": [-0.1, -0.05, -0.2 - 0.9],
        "b a b": [-0.5 - 0.6, -0.45, -0.05 - 0.35, -0.2 - 0.9],
        "a x b": [-0.1, -0.7 - 0.3 - 2.0, -0.6, -0.2 - 0.9],
        "": [-0.5 - 0.9],
    }
    for sentence, log10 in by_hand.items():
        expected = np.array(log10) * math.log(10)
        np.testing.assert_allclose(word_log_probs(arpa, sentence), expected, rtol=1e-6)


def test_a_file_is_read_as_its_text_is(tmp_path):
    path = tmp_path / "model.arpa"
    path.write_bytes(("a comment\n\n" + ARPA).replace("\n", "\r\n").encode())
    read, text = parse_arpa(path), parse_arpa(ARPA)
    assert read.words == text.words
    for one, other in zip(read.orders, text.orders, strict=True):
        np.testing.assert_array_equal(one.words, other.words)
        np.testing.assert_array_equal(one.backoff, other.backoff)


def test_other_ways_to_write_the_unknown_word():
    capital = parse_arpa(ARPA.replace("<unk>", "<UNK>"))
    assert word_log_probs(capital, "x")[0] == pytest.approx((-0.5 - 2) * math.log(10))
    absent = parse_arpa(ARPA.replace("-2.0 <unk>\n", "").replace("1=5", "1=4"))
    assert word_log_probs(absent, "x")[0] == pytest.approx((-0.5 - 100) * math.log(10))


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("\\data\\", "data", r":22: the file ends too soon"),
        ("\\end\\", "", r":22: the file ends too soon"),
        ("ngram 2=3", "ngram 3=3", r":3: expected 'ngram 2=COUNT'"),
        ("ngram 2=3", "ngram 2=2", r":16: expected '\\3-grams:', is '-0.45 b a -0.05'"),
        ("ngram 2=3", "ngram 2=4", r":17: expected a log probability, 2 words"),
        ("\\2-grams:", "\\4-grams:", r":13: expected '\\2-grams:', is '\\4-grams:'"),
        ("-0.6 b -0.2", "-0.6 b -0.2 1", r":11: expected a log probability, 1 words and perhaps"),
        ("-0.05 <s> a b", "-0.05 <s> a b -1", r":19: expected a log probability, 3 words$"),
        ("-0.6 b -0.2", "-0.6 b low", r":11: could not convert string to float: 'low'"),
        ("-0.6 b -0.2", "0.6 b -0.2", r":11: the 1-gram is no log probability"),
        ("-0.6 b -0.2", "nan b -0.2", r":11: the 1-gram is no log probability"),
        ("-0.6 b -0.2", "-0.6 b inf", r":11: the 1-gram has a backoff that is not finite"),
        ("-0.6 b -0.2", "-0.6 a -0.2", r":11: the 1-gram is listed twice"),
        ("-0.45 b a", "-0.45 <s> a", r":16: the 2-gram is listed twice"),
        ("-0.45 b a", "-0.45 b x", r":16: 'x' is not among the 1-grams"),
        ("<s> a b", "b b b", r":19: the 3-gram has a context that is not among the 2-grams"),
        ("-0.9 </s>", "-0.9 z", r":11: </s> is not among the 1-grams"),
    ],
)
def test_the_line_that_is_wrong_is_named(tmp_path, old, new, problem):
    assert old in ARPA
    (tmp_path / "bad.arpa").write_text(ARPA.replace(old, new, 1))
    with pytest.raises(UserError, match=r"bad\.arpa" + problem):
        parse_arpa(tmp_path / "bad.arpa")


def test_files_that_are_no_text(tmp_path):
    with pytest.raises(UserError, match=r"none\.arpa: No such file"):
        parse_arpa(tmp_path / "none.arpa")
    (tmp_path / "packed.arpa").write_bytes(b"\x1f\x8b\x08\xff")
    with pytest.raises(UserError, match=r"packed\.arpa:1: is not UTF-8 text"):
        parse_arpa(tmp_path / "packed.arpa")


def spell_characters(word):
    if not set(word) <= set(LETTERS):
        raise UserError(f"cannot spell {word}")
    return [1 + LETTERS.index(letter) for letter in word]


def spell_pieces(word):
    """Ids 0 to 2 are letters that begin a word, 3 to 5 those that go on."""
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
    """Log-probabilities and numbers of words of lists of tokens, on the device."""
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
def test_the_device_scores_as_the_definition_does(text, compiled, spell):
    arpa, (probability, _) = parse_arpa(text), conditional(text)
    model = compiled(arpa)
    said = [*sentences(2, 60, WORDS[::-1]), *sentences(3, 60), "abcabca b", "a"]
    tokens = [joined(map(spell, sentence.split()), model.separator) for sentence in said]
    log_prob, words = follow(model, tokens)
    assert words.tolist() == [len(sentence.split()) for sentence in said]
    for sentence, scored in zip(said, log_prob, strict=True):
        known = [word if word in arpa.words else "<unk>" for word in sentence.split()]
        padded = ("<s>", *known, "</s>")
        parts = [
            math.log(probability(padded[max(0, i - 2) : i], padded[i]))
            for i in range(1, len(padded))
        ]
        np.testing.assert_allclose(word_log_probs(arpa, sentence), parts, rtol=1e-6)
        np.testing.assert_allclose(scored, sum(parts), rtol=1e-5)


def test_spaces_too_many_are_no_words():
    model = by_characters(parse_arpa(ARPA))
    log_prob, words = follow(model, [[1, 0, 2], [0, 0, 1, 0, 0, 2, 0]])
    assert words.tolist() == [2, 2]
    assert log_prob[0] == log_prob[1]


def test_words_that_cannot_be_spelled_are_unknown():
    text = ARPA.replace(" b", " é")
    arpa = parse_arpa(text)
    log_prob, _ = follow(by_characters(arpa), [[2]])
    assert log_prob[0] == pytest.approx(word_log_probs(arpa, "x").sum())
    with pytest.raises(UserError, match="can spell no word of the language model"):
        by_characters(parse_arpa(text.replace(" a", " A")))


def test_of_words_spelled_alike_the_most_probable_is_meant():
    arpa = parse_arpa(ARPA)
    model = on_device(compile_language_model(arpa, lambda word: [1], 0, np.zeros(2, bool)))
    log_prob, _ = follow(model, [[1]])
    assert log_prob[0] == pytest.approx(word_log_probs(arpa, "a").sum())
