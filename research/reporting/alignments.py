"""Word alignments between references and hypotheses.

An alignment is a list of pairs (reference word, hypothesis word); one of the two is "" for a
deletion or an insertion. Words, or phonemes, are separated by spaces.
"""

from collections.abc import Sequence
from itertools import zip_longest

import jiwer

Alignment = Sequence[tuple[str, str]]


def align(references: Sequence[str], hypotheses: Sequence[str]) -> list[Alignment]:
    """Aligns each reference with its hypothesis by the fewest edits."""
    words = jiwer.process_words(list(references), list(hypotheses))
    aligned = zip(words.references, words.hypotheses, words.alignments, strict=True)
    return [
        [
            pair
            for chunk in chunks
            for pair in zip_longest(
                reference[chunk.ref_start_idx : chunk.ref_end_idx],
                hypothesis[chunk.hyp_start_idx : chunk.hyp_end_idx],
                fillvalue="",
            )
        ]
        for reference, hypothesis, chunks in aligned
    ]


def edit_type(reference: str, hypothesis: str) -> str:
    """Returns "S" for a substitution, "D" for a deletion, "I" for an insertion, "" for a match."""
    if reference == hypothesis:
        return ""
    return "I" if not reference else "D" if not hypothesis else "S"


def count_edits(alignment: Alignment) -> int:
    """Returns the number of substitutions, deletions and insertions of an alignment."""
    return sum(bool(edit_type(*pair)) for pair in alignment)
