"""Prediction of output texts from input texts."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from research.common.errors import UserError
from research.data.dataset import Dataset
from research.predictor import Predictor
from research.tasks.sequence_to_sequence.data import EncodedPairs, Pair
from research.tasks.sequence_to_sequence.task import SequenceToSequence

_SHOWN = 40  # characters of a long text in a message


class SequenceToSequencePredictor(Predictor):
    """Predicts the output of a text.

    Args:
      task: a resolved task.
    """

    input_kind = "text"

    def __init__(self, task: SequenceToSequence):
        self.task = task

    def preprocess(self, item: str) -> Dataset:
        """Encodes one input text as an example with a source alone."""
        encode, *_ = self.task.encoders
        limit = self.task.limit._replace(truncate=False)
        buckets = sorted({(source,) for source, _ in self.task.bucket_lengths})
        start = item if len(item) <= _SHOWN else f"{item[:_SHOWN]}..."
        if not item.strip():
            raise UserError(f"invalid text '{item}': expected at least one visible character")
        try:
            item.encode()
            encode(item)
        except UnicodeEncodeError:
            shown = start.encode(errors="replace").decode()
            raise UserError(f"invalid text '{shown}': expected UTF-8; convert it") from None
        except UserError as error:
            raise UserError(f"invalid text '{start}': {error}") from None
        pairs = EncodedPairs([Pair(item, "", (), origin="")], [encode], limit, buckets)
        if (length := int(pairs.lengths.max())) > limit.max_length:
            expected = f"expected at most max_length={limit.max_length}"
            raise UserError(f"invalid text '{start}': {expected} tokens, got {length}; split it")
        return pairs

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
