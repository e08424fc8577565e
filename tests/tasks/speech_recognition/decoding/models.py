"""ARPA models for tests, and a reference implementation of back-off."""

import itertools

import numpy as np

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


def sentences(seed, count, words=WORDS, max_words=6):
    rng = np.random.default_rng(seed)
    weights = 1 / np.arange(1, len(words) + 1)
    lengths = rng.integers(1, max_words + 1, count)
    return [" ".join(rng.choice(words, n, p=weights / weights.sum())) for n in lengths]


def random_arpa(seed):
    """Returns a 3-gram model in which many suffixes and many back-off weights are missing."""
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
    """Returns p(word | context) by the definition of back-off, and the n-grams of an ARPA file."""
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
