"""Sequence to sequence as a task: spelling to pronunciation, one language to another."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np

from research.common.errors import ConfigError, UserError
from research.data.buckets import choose_buckets
from research.data.dataset import Bucket, Dataset
from research.data.tokenizers import Bytes, Characters, Tokenizer, WordPieces, Words
from research.task import Average, Batch, Task, Tree
from research.tasks.sequence_to_sequence import models
from research.tasks.sequence_to_sequence.attention_lstm import AttentionLSTM
from research.tasks.sequence_to_sequence.beam_search import Hypotheses, beam_search
from research.tasks.sequence_to_sequence.data import (
    Pair,
    ParallelText,
    Pronunciations,
    TranslationTFDS,
)
from research.tasks.sequence_to_sequence.decoding import Decoding
from research.tasks.sequence_to_sequence.pairs import (
    SIDES,
    EncodedPairs,
    Limit,
    PackedPairs,
)
from research.tasks.sequence_to_sequence.scorer import PronunciationScorer, TranslationScorer
from research.tasks.sequence_to_sequence.transformer import Transformer

_SHOWN = 40  # characters of a long text in a message
_SAMPLE = 200_000  # pairs that tokenizers and buckets are made from, of a larger data set


@dataclass(frozen=True)
class SequenceToSequence(Task):
    """The output of an input, both texts, from a network that writes it token by token."""

    input_kind: ClassVar[str] = "text"
    """Texts are given as they are, and not in files."""

    source: Pronunciations | ParallelText | TranslationTFDS = field(default_factory=Pronunciations)
    """Where the pairs of texts come from."""

    input_tokenizer: Characters | Words | WordPieces | Bytes = field(default_factory=Characters)
    """What an input is made of."""

    output_tokenizer: Characters | Words | WordPieces | Bytes = field(default_factory=Words)
    """What an output is made of; with `joint` of no meaning."""

    joint: bool = False
    """One vocabulary, and one embedding, for both: that of `input_tokenizer`, learned on both."""

    lowercase: bool = False
    """Take all inputs and outputs in lower case; references stay as they are written."""

    model: AttentionLSTM | Transformer = field(default_factory=AttentionLSTM)
    """The network."""

    label_smoothing: float = 0.0
    """The part of each target's probability that is spread over all classes."""

    decoding: Decoding = field(default_factory=Decoding)
    """How an output is found in the network's scores."""

    scoring: Literal["pronunciation", "translation"] = "translation"
    """By the errors in words and phonemes, or by BLEU and chrF."""

    longest: int = 128
    """Tokens of a side at most, its end counted."""

    too_long: Literal["drop", "truncate"] = "drop"
    """What is done to a pair with a side that is longer; either is counted."""

    buckets: int = 12
    """The number of pairs of lengths that batches come in; each is compiled once."""

    bucket_lengths: tuple[tuple[int, int], ...] = ()
    """These lengths; empty: those that pad the training pairs least."""

    packed_length: int = 0
    """Train on rows of this length, each with as many pairs as fit; 0: on pairs in buckets."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    """What the network computes in; its parameters are float32 in any case."""

    def __post_init__(self):
        if self.lowercase and self.scoring == "pronunciation":
            raise ConfigError("lowercase", "changes phonemes and not their references; leave it")
        if self.packed_length < 0:
            raise ConfigError("packed_length", f"must not be negative, is {self.packed_length}")
        if not 0 <= self.label_smoothing < 1:
            raise ConfigError("label_smoothing", f"must lie in [0, 1), is {self.label_smoothing}")
        for key in ("longest", "buckets"):
            if getattr(self, key) < 1:
                raise ConfigError(key, f"must be at least 1, is {getattr(self, key)}")
        if self.packed_length and not self.model.packs:
            kind = type(self.model).__name__
            raise ConfigError("packed_length", f"{kind} reads one pair a row; use a Transformer")
        if 0 < self.packed_length < self.longest:
            problem = f"must hold the longest pair, {self.longest}, is {self.packed_length}"
            raise ConfigError("packed_length", problem)
        try:
            self.model.check()
        except ConfigError as error:
            raise error.within("model") from None

    def resolve(self) -> "SequenceToSequence":
        """With the vocabularies and the lengths of batches."""
        if self._is_resolved:
            return self
        pairs = self._sample()
        sources = [self.normalize_text(pair.source) for pair in pairs]
        targets = [self.normalize_text(pair.target) for pair in pairs]
        texts = {"input_tokenizer": sources + targets if self.joint else sources}
        if not self.joint:
            texts["output_tokenizer"] = targets

        def tokenizer(key: str) -> Any:
            return _at(key, lambda: getattr(self, key).resolve(texts[key]))

        known = replace(self, **{key: tokenizer(key) for key in texts})
        if self.bucket_lengths:
            return known
        unpacked = EncodedPairs(pairs, known._encoders, known._limit, [(1, 1)])
        usable = np.delete(unpacked.lengths, list(unpacked.unusable), axis=0)
        fitting = usable[(usable <= self.longest).all(axis=1)]
        if not len(fitting):
            raise ConfigError("longest", f"no pair has sides of at most {self.longest} tokens")
        return replace(known, bucket_lengths=choose_buckets(fitting, self.buckets))

    @cached_property
    def network(self) -> AttentionLSTM | Transformer:
        """The model, made for the numbers of classes."""
        return self.model.clone(
            source_classes=1 + self.input_tokenizer.size,
            target_classes=1 + self._target_tokenizer.size,
            shared=self.joint,
            dtype=jnp.dtype(self.dtype),
        )

    def batch_spec(self, batch_size: int, length: Bucket | None) -> dict[str, jax.ShapeDtypeStruct]:
        """`source` and `target` int32 [batch, length] are classes: 0 ends, others are 1 + token.

        `source_segments` and `target_segments` of the same shapes count the pairs of a row from 1,
        and are 0 in the padding.
        """
        row = (self.packed_length, self.packed_length)
        lengths = length or (row if self.packed_length else self.bucket_lengths[-1])
        # What `read` gives has one side alone.
        return {
            side + suffix: jax.ShapeDtypeStruct((batch_size, size), jnp.int32)
            for side, size in zip(SIDES, np.atleast_1d(lengths).tolist(), strict=False)
            for suffix in ("", "_segments")
        }

    def dataset(self, split: str) -> EncodedPairs:
        """The pairs of a split."""
        try:
            pairs = self._pairs(split)
        except ConfigError as error:
            raise error.within("task") from None
        scored = split != "train"
        return EncodedPairs(pairs, self._encoders, self._limit, self.bucket_lengths, scored)

    def training(self) -> Dataset:
        """The pairs to learn from, in rows if they are to be packed."""
        pairs = self.dataset("train")
        return PackedPairs(pairs, self.packed_length) if self.packed_length else pairs

    def init(self, key: jax.Array) -> tuple[Tree, Tree]:
        """Parameters; there are no other variables."""
        ones = jnp.ones((1, 2), jnp.int32)
        variables = dict(self.network.init(key, models.Pairs(ones, ones, ones, ones), train=False))
        return variables.pop("params"), variables

    def loss(
        self, params: Tree, variables: Tree, batch: Batch, key: jax.Array, train: bool
    ) -> tuple[dict[str, Average], Tree]:
        """The cross entropy of a token in nats, ends counted; `accuracy` is the part predicted.

        Labels are smoothed in training alone.
        """
        rngs = {"dropout": key} if train else {}
        logits, _ = self._apply(params, _pair_of(batch), train, rngs=rngs)
        log_probs = jax.nn.log_softmax(logits)
        target, present = batch["target"], batch["target_segments"] > 0
        weight = present * batch["mask"][:, None]
        losses = -jnp.take_along_axis(log_probs, target[..., None], axis=-1)[..., 0]
        if train and self.label_smoothing:
            spread = self.label_smoothing
            losses = (1 - spread) * losses - spread * log_probs.mean(axis=-1)
        correct = logits.argmax(axis=-1) == target
        count = weight.sum()
        metrics = {
            "loss": Average((losses * weight).sum(), count),
            "accuracy": Average((correct * weight).sum(), count),
        }
        return metrics, variables

    def predict(self, params: Tree, variables: Tree, batch: Batch) -> Batch:
        """The best outputs as tokens, and what the best one looked at while it was written.

        `tokens` int32 [batch, n_best, capacity] with their `count` and `score` [batch, n_best], the
        best first; `attention` float16 [batch, capacity, source_length], and how many of its
        columns are valid, `source_count` [batch].
        """
        source, segments = batch["source"], batch["source_segments"]
        found = self.search(params, source, segments)
        best = found.tokens[:, 0]
        written = jnp.arange(best.shape[1]) <= found.lengths[:, :1]
        pair = models.Pairs(source, segments, best, written.astype(jnp.int32))
        _, attention = self._apply(params, pair, False)
        kept = self.decoding.n_best
        return {
            "tokens": found.tokens[:, :kept] - 1,
            "count": found.lengths[:, :kept],
            "score": found.score[:, :kept],
            "attention": attention.astype(jnp.float16),
            "source_count": (segments > 0).sum(axis=1),
        }

    def search(self, params: Tree, source: jax.Array, segments: jax.Array) -> Hypotheses:
        """The hypotheses of `beam_search`, as classes, of sources int32 [batch, length]."""
        batch, length = source.shape
        beam, capacity = self.decoding.beam, self.decoding.capacity(length)
        memory, state, cache = self._apply(params, source, segments, beam, capacity, method="begin")

        def step(*now: Any) -> tuple[jax.Array, Tree, Tree]:
            logits, state, cache = self._apply(params, memory, *now, method="step")
            return jax.nn.log_softmax(logits), state, cache

        penalty = self.decoding.length_penalty
        return beam_search(step, state, cache, batch, beam, capacity, penalty)

    def scorer(self) -> PronunciationScorer | TranslationScorer:
        """Errors in words and phonemes, or BLEU and chrF."""
        kind = PronunciationScorer if self.scoring == "pronunciation" else TranslationScorer
        source, target = self.input_tokenizer, self._target_tokenizer
        return kind(
            target.decode,
            lambda text: [source.tokens[i] for i in source.encode(self.normalize_text(text))],
            lambda ids: [target.tokens[i] for i in ids],
        )

    def read(self, given: str) -> Dataset:
        """A text to write the output of."""
        (encode, *_), limit = self._encoders, self._limit._replace(truncate=False)
        buckets = sorted({(source,) for source, _ in self.bucket_lengths})
        start = given if len(given) <= _SHOWN else f"{given[:_SHOWN]}..."
        if not given.strip():
            raise UserError("a text is empty; give one that is not")
        try:
            given.encode()
            encode(given)
        except UnicodeEncodeError:
            shown = start.encode(errors="replace").decode()
            raise UserError(f"'{shown}' is not UTF-8; convert it") from None
        except UserError as error:
            raise UserError(f"'{start}': {error}") from None
        pairs = EncodedPairs([Pair(given, "", (), where="")], [encode], limit, buckets)
        if (length := int(pairs.lengths.max())) > self.longest:
            raise UserError(
                f"'{start}' has {length} tokens, at most {self.longest} can be read; divide it"
            )
        return pairs

    def describe(self, predictions: Sequence[Mapping[str, np.ndarray]]) -> dict[str, Any]:
        """The best output and its score; `n_best` are all, and say whether they ended in time."""
        (found,) = predictions
        rows = zip(found["tokens"], found["count"].tolist(), found["score"].tolist(), strict=True)
        # There may be fewer outputs than hypotheses were asked for.
        outputs = [
            {
                "output": self._target_tokenizer.decode(ids[:count].tolist()),
                "score": score,
                "ended": count < len(ids),
            }
            for ids, count, score in rows
            if np.isfinite(score)
        ]
        best = {name: outputs[0][name] for name in ("output", "score")}
        ranked = {f"output {rank}": one["output"] for rank, one in enumerate(outputs[1:], 2)}
        return best | ranked | {"n_best": outputs}

    def normalize_text(self, text: str) -> str:
        """A text as the tokenizers take it."""
        return text.lower() if self.lowercase else text

    @property
    def _is_resolved(self) -> bool:
        tokenizers = self.input_tokenizer.is_resolved and self._target_tokenizer.is_resolved
        return tokenizers and bool(self.bucket_lengths)

    @property
    def _target_tokenizer(self) -> Tokenizer:
        return self.input_tokenizer if self.joint else self.output_tokenizer

    @property
    def _encoders(self) -> list[Any]:
        def encode(tokenizer: Tokenizer, text: str) -> list[int]:
            return [1 + token for token in tokenizer.encode(self.normalize_text(text))]

        return [partial(encode, one) for one in (self.input_tokenizer, self._target_tokenizer)]

    @property
    def _limit(self) -> Limit:
        return Limit(self.longest, self.too_long == "truncate")

    def _pairs(self, split: str) -> Sequence[Pair]:
        return _at("source", lambda: self.source.open(split))

    def _sample(self) -> list[Pair]:
        """Usable training pairs, the same each time."""
        pairs = self._pairs("train")
        chosen = np.arange(len(pairs))
        if len(pairs) > _SAMPLE:
            chosen = np.sort(np.random.default_rng(0).permutation(chosen)[:_SAMPLE])
        usable = [pair for pair in map(pairs.__getitem__, chosen.tolist()) if not pair.fault]
        if not usable:
            raise ConfigError("source", f"no pair is usable: {pairs[0].where}: {pairs[0].fault}")
        return usable

    def _apply(self, params: Tree, *arguments: Any, **options: Any) -> Any:
        return self.network.apply({"params": params}, *arguments, **options)


def _pair_of(batch: Batch) -> models.Pairs:
    return models.Pairs(*(batch[name] for name in models.Pairs._fields))


def _at(key: str, build: Any) -> Any:
    """What `build()` returns; its config errors are those of `key`."""
    try:
        return build()
    except ConfigError as error:
        raise error.within(key) from None
