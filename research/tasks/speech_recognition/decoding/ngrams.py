"""Estimation of word n-gram language models from text."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from research.common.errors import UserError
from research.tasks.speech_recognition.decoding.arpa import BEGIN, END, UNKNOWN

_LOG_ZERO = -99.0  # log10 of probability 0 in ARPA files
_FALLBACK_DISCOUNTS = (0.0, 0.5, 1.0, 1.5)  # as in KenLM's lmplz


def estimate(sentences: Iterable[str], order: int) -> str:
    """Estimates an interpolated n-gram model with modified Kneser-Ney smoothing.

    Chen and Goodman 1999, "An empirical study of smoothing techniques for language modeling",
    section 3, interpolated at the lowest order with the uniform distribution over all words, </s>
    and <unk> (Heafield et al. 2013, "Scalable modified Kneser-Ney language model estimation"). If
    the counts of a text do not determine the discounts, those are 0.5, 1 and 1.5. A 3-gram model of
    948 sentences of AN4 has perplexity 16.8 on others; Witten-Bell smoothing, which has no
    discounts, has 19.0.

    Args:
      sentences: texts whose words are separated by white space.
      order: maximum length of the n-grams.

    Returns:
      the model as ARPA text.

    Raises:
      UserError: the texts have no sentence, or one contains <s> or </s>.
    """
    probability: dict[tuple[str, ...], float] = {}
    backoff: dict[tuple[str, ...], float] = {}
    grams_by_order = _adjusted_counts(sentences, order)
    probability[()] = 1 / len(grams_by_order[0])
    for counts in grams_by_order:
        discounts = _discounts(Counter(counts.values()))
        total: Counter[tuple[str, ...]] = Counter()
        held_back: dict[tuple[str, ...], float] = {}
        for gram, count in counts.items():
            context = gram[:-1]
            total[context] += count
            held_back[context] = held_back.get(context, 0.0) + discounts[min(count, 3)]
        for gram, count in counts.items():
            context = gram[:-1]
            backoff[context] = held_back[context] / total[context]
            discounted = (count - discounts[min(count, 3)]) / total[context]
            probability[gram] = discounted + backoff[context] * probability[gram[1:]]
    return "\n".join(_arpa_lines(grams_by_order, probability, backoff))


def _adjusted_counts(sentences: Iterable[str], order: int) -> list[Counter[tuple[str, ...]]]:
    """Counts n-grams by order.

    The counts of the highest order are numbers of occurrences, those of lower orders numbers of
    distinct preceding words.
    """
    raw: list[Counter[tuple[str, ...]]] = [Counter() for _ in range(order)]
    for words in filter(None, map(str.split, sentences)):
        if BEGIN in words or END in words:
            raise UserError(f"invalid sentence '{' '.join(words)}': remove {BEGIN} and {END}")
        padded = (BEGIN, *words, END)
        for end in range(2, len(padded) + 1):
            raw[0][padded[end - 1 : end]] += 1
            for length in range(2, min(order, end) + 1):
                raw[length - 1][padded[end - length : end]] += 1
    if not raw[0]:
        raise UserError("missing sentences: a language model cannot be estimated from no text")
    adjusted = [Counter(gram[1:] for gram in longer) for longer in raw[1:]]
    for counts, unadjusted in zip(adjusted, raw, strict=False):
        # No word precedes <s>, so n-grams that begin with it keep their occurrences.
        counts.update({gram: n for gram, n in unadjusted.items() if gram[0] == BEGIN})
    adjusted.append(raw[-1])
    adjusted[0].setdefault((UNKNOWN,), 0)
    return adjusted


def _discounts(occurrences: Counter[int]) -> tuple[float, ...]:
    """Returns the discounts of counts 0, 1, 2, and 3 or more (Chen and Goodman 1999, section 3)."""
    n1, n2, n3, n4 = (occurrences[count] for count in (1, 2, 3, 4))
    if not (n1 and n2 and n3):
        return _FALLBACK_DISCOUNTS
    y = n1 / (n1 + 2 * n2)
    discounts = (0.0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
    return discounts if min(discounts[1:]) > 0 else _FALLBACK_DISCOUNTS


def _arpa_lines(
    grams_by_order: Sequence[Iterable[tuple[str, ...]]],
    probability: dict[tuple[str, ...], float],
    backoff: dict[tuple[str, ...], float],
) -> Iterator[str]:
    lines_by_order = []
    for grams in grams_by_order:
        lines = [_arpa_line(gram, math.log10(probability[gram]), backoff) for gram in grams]
        lines_by_order.append(lines)
    lines_by_order[0].insert(0, _arpa_line((BEGIN,), _LOG_ZERO, backoff))
    yield "\\data\\"
    for order, lines in enumerate(lines_by_order, 1):
        yield f"ngram {order}={len(lines)}"
    for order, lines in enumerate(lines_by_order, 1):
        yield f"\n\\{order}-grams:"
        yield from lines
    yield "\n\\end\\\n"


def _arpa_line(
    gram: tuple[str, ...], log_prob: float, backoff: dict[tuple[str, ...], float]
) -> str:
    weight = f"\t{math.log10(backoff[gram]):.7f}" if gram in backoff else ""
    return f"{log_prob:.7f}\t{' '.join(gram)}{weight}"
