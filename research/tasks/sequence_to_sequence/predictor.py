"""Prediction of output texts from input texts."""

import logging
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from research.common.errors import UserError
from research.data.dataset import Dataset
from research.data.tokenizers import UnknownTokensError
from research.predictor import Predictor
from research.tasks.sequence_to_sequence.data import EncodedPairs, Pair
from research.tasks.sequence_to_sequence.task import SequenceToSequence

_SHOWN = 40  # characters of a long text in a message
# Typographic quotation marks and dashes, which phones write, as a keyboard has them.
_KEYBOARD = str.maketrans("\u2018\u2019\u201c\u201d\u2013\u2014", "''\"\"--")
log = logging.getLogger(__name__)


class SequenceToSequencePredictor(Predictor):
    """Predicts the output of a text.

    Args:
      task: a resolved task.
    """

    input_kind = "text"

    def __init__(self, task: SequenceToSequence):
        self.task = task

    def preprocess(self, item: str) -> Dataset:
        """Encodes one input text as an example with a source alone.

        A text with characters or words that the vocabulary lacks is spelled more simply, such as in
        lower case; a warning names them.
        """
        encode, *_ = self.task.encoders
        limit = self.task.limit._replace(truncate=False)
        buckets = sorted({(source,) for source, _ in self.task.bucket_lengths})
        start = _shortened(item)
        if not item.strip():
            raise UserError(f"invalid text '{item}': expected at least one visible character")
        try:
            item.encode()
            text = self._spelled(item)
        except UnicodeEncodeError:
            shown = start.encode(errors="replace").decode()
            raise UserError(f"invalid text '{shown}': expected UTF-8; convert it") from None
        except UserError as error:
            raise UserError(f"invalid text '{start}': {error}") from None
        pairs = EncodedPairs([Pair(text, "", (), origin="")], [encode], limit, buckets)
        if (length := int(pairs.lengths.max())) > limit.max_length:
            expected = f"expected at most max_length={limit.max_length}"
            raise UserError(f"invalid text '{start}': {expected} tokens, got {length}; split it")
        return pairs

    def _spelled(self, text: str) -> str:
        """Returns the first of the spellings of a text that can be encoded.

        Raises:
          UnknownTokensError: none can.
        """
        encode, *_ = self.task.encoders
        problems = []
        for spelling in _spellings(text):
            try:
                encode(spelling)
            except UnknownTokensError as error:
                problems.append(error)
                continue
            if problems:
                texts = map(_shortened, (text, spelling))
                log.warning("'%s' is read as '%s': %s", *texts, problems[0].named)
            return spelling
        raise problems[-1]

    def postprocess(self, predictions: Sequence[Mapping[str, np.ndarray]]) -> dict[str, Any]:
        """Returns the best output with its score, and all hypotheses as `n_best`.

        `ended` is false where a hypothesis reached the maximum length without an end of sequence.
        """
        (found,) = predictions
        rows = zip(found["tokens"], found["count"].tolist(), found["score"].tolist(), strict=True)
        # Where the search found fewer than `n_best` hypotheses, the remaining scores are -inf.
        outputs = [
            {
                "output": self.task.target_tokenizer.decode(ids[:count].tolist()),
                "score": score,
                "ended": count < len(ids),
            }
            for ids, count, score in rows
            if np.isfinite(score)
        ]
        best = {name: outputs[0][name] for name in ("output", "score")}
        ranked = {f"output {rank}": one["output"] for rank, one in enumerate(outputs[1:], 2)}
        return best | ranked | {"n_best": outputs}


def _shortened(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _spellings(text: str) -> Iterator[str]:
    """Yields a text, and ever simpler spellings: composed, in lower case, without accents."""
    composed = unicodedata.normalize("NFC", text)
    yield from (text, composed, composed.lower())
    letters = unicodedata.normalize("NFKD", composed.casefold().translate(_KEYBOARD))
    yield "".join(letter for letter in letters if not unicodedata.combining(letter))
