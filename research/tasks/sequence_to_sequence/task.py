"""Sequence to sequence: grapheme-to-phoneme conversion and machine translation."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from research.common.config import renamed_from
from research.common.errors import ConfigError, within
from research.data.buckets import choose_buckets
from research.data.dataset import Bucket, Dataset
from research.data.tokenizers import Bytes, Characters, Tokenizer, WordPieces, Words
from research.layers.protocol import check_interface, check_outputs
from research.task import Average, Batch, Task, Tree, Vocabularies
from research.tasks.sequence_to_sequence.data import (
    EncodedPairs,
    Limit,
    PackedPairs,
    Pair,
    ParallelText,
    Pronunciations,
    TranslationTFDS,
)
from research.tasks.sequence_to_sequence.data.encoding import SIDES, Encode
from research.tasks.sequence_to_sequence.decoding import Decoding, Hypotheses, beam_search
from research.tasks.sequence_to_sequence.models import AttentionLSTM, Pairs, Transformer
from research.tasks.sequence_to_sequence.scorer import (
    METRICS,
    PronunciationScorer,
    TranslationScorer,
)

if TYPE_CHECKING:
    from research.tasks.sequence_to_sequence.predictor import SequenceToSequencePredictor

_MODEL_ATTRIBUTES = ("check", "supports_packing", "init_decoding", "decode_step")
_SAMPLE = 200_000  # training pairs from which tokenizers and buckets of a larger data set are made


@dataclass(frozen=True)
class SequenceToSequence(Task):
    """Maps an input text to an output text with an encoder and an autoregressive decoder."""

    metrics = METRICS

    source: Pronunciations | ParallelText | TranslationTFDS = field(default_factory=Pronunciations)
    """The data set of text pairs."""

    input_tokenizer: Characters | Words | WordPieces | Bytes = field(default_factory=Characters)
    """Tokenizer of the inputs."""

    output_tokenizer: Characters | Words | WordPieces | Bytes = field(default_factory=Words)
    """Tokenizer of the outputs; unused with `joint_vocabulary`."""

    joint_vocabulary: bool = renamed_from("joint", default=False)
    """Share one vocabulary and one embedding: `input_tokenizer`, trained on both sides."""

    lowercase: bool = False
    """Lowercase all inputs and outputs; references keep their case."""

    model: AttentionLSTM | Transformer = field(default_factory=AttentionLSTM)
    """The network."""

    label_smoothing: float = 0.0
    """Part of each target's probability that is spread evenly over all classes."""

    decoding: Decoding = field(default_factory=Decoding)
    """Beam search."""

    scoring: Literal["pronunciation", "translation"] = "translation"
    """Metrics: word and phoneme error rates, or BLEU and chrF."""

    max_length: int = renamed_from("longest", default=128)
    """Maximum number of tokens of a side, EOS included."""

    truncate: bool = renamed_from(
        "too_long", default=False, convert=lambda value: value == "truncate"
    )
    """Truncate longer sequences; otherwise their pairs are dropped. The log counts either."""

    num_buckets: int = renamed_from("buckets", default=12)
    """Number of buckets, pairs of lengths to pad batches to; each one is compiled once."""

    bucket_lengths: tuple[tuple[int, int], ...] = ()
    """The buckets; empty: those with the least padding of the training pairs."""

    packed_length: int = 0
    """Pack training pairs into rows of this length; 0: one pair per row, in buckets."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    """Dtype of the computation; parameters are always float32."""

    def __post_init__(self):
        with within("model"):
            check_interface(self.model, ("batch",), _MODEL_ATTRIBUTES)
        if self.lowercase and self.scoring == "pronunciation":
            raise ConfigError("lowercase", "invalid with scoring=pronunciation; set it to False")
        if self.packed_length < 0:
            raise ConfigError(
                "packed_length", f"invalid length {self.packed_length}: expected 0 or more"
            )
        if not 0 <= self.label_smoothing < 1:
            problem = f"invalid value {self.label_smoothing}: expected a number in [0, 1)"
            raise ConfigError("label_smoothing", problem)
        for key in ("max_length", "num_buckets"):
            if getattr(self, key) < 1:
                raise ConfigError(key, f"invalid number {getattr(self, key)}: expected at least 1")
        if self.packed_length and not self.model.supports_packing:
            kind = type(self.model).__name__
            raise ConfigError(
                "packed_length", f"{kind} does not support packing; use a Transformer, or 0"
            )
        if 0 < self.packed_length < self.max_length:
            expected = f"expected at least max_length={self.max_length}"
            raise ConfigError("packed_length", f"invalid length {self.packed_length}: {expected}")
        with within("model"):
            self.model.check()

    def resolve(self) -> "SequenceToSequence":
        """Returns the task with its vocabularies and buckets."""
        if self._is_resolved:
            return self
        pairs = self._sample()
        sources = [self.normalize_text(pair.source) for pair in pairs]
        targets = [self.normalize_text(pair.target) for pair in pairs]
        texts = {"input_tokenizer": sources + targets if self.joint_vocabulary else sources}
        if not self.joint_vocabulary:
            texts["output_tokenizer"] = targets

        tokenizers = {}
        for key, examples in texts.items():
            with within(key):
                tokenizers[key] = getattr(self, key).resolve(examples)
        known = replace(self, **tokenizers)
        if self.bucket_lengths:
            return known
        unpacked = EncodedPairs(pairs, known.encoders, known.limit, [(1, 1)])
        usable = np.delete(unpacked.lengths, list(unpacked.unusable), axis=0)
        fitting = usable[(usable <= self.max_length).all(axis=1)]
        if not len(fitting):
            problem = f"invalid length {self.max_length}: every pair has a longer side; increase it"
            raise ConfigError("max_length", problem)
        return replace(known, bucket_lengths=choose_buckets(fitting, self.num_buckets))

    def resolve_without_data(self) -> "SequenceToSequence":
        """Returns the task with one bucket of the maximum length, and vocabularies.

        Those that the config has are kept.
        """
        return replace(
            self,
            input_tokenizer=self.input_tokenizer.resolve_without_data(),
            output_tokenizer=self.output_tokenizer.resolve_without_data(),
            bucket_lengths=self.bucket_lengths or ((self.max_length, self.max_length),),
        )

    @cached_property
    def network(self) -> AttentionLSTM | Transformer:
        """The model with the vocabulary sizes and the dtype filled in."""
        return self.model.clone(
            num_source_classes=1 + self.input_tokenizer.size,
            num_target_classes=1 + self.target_tokenizer.size,
            shared_embedding=self.joint_vocabulary,
            dtype=jnp.dtype(self.dtype),
        )

    @property
    def vocabularies(self) -> Vocabularies:
        """Embeddings and the output layer have a slice for the end, "", and each token."""
        source, target = (("", *t.tokens) for t in (self.input_tokenizer, self.target_tokenizer))
        return (
            ("^params/source_embedding/embedding$", 0, source),
            ("^params/target_embedding/embedding$", 0, target),
            ("^params/output/kernel$", 1, target),
            ("^params/output/bias$", 0, target),
        )

    @property
    def buckets(self) -> tuple[Bucket, ...]:
        """The lengths of source and target; packed rows have one length."""
        return () if self.packed_length else self.bucket_lengths

    def batch_spec(self, batch_size: int, length: Bucket | None) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns `source` and `target`, int32 [batch, length], and their segments.

        Class 0 is EOS, class 1 + i is token i. `source_segments` and `target_segments`, of the same
        shapes, count the pairs of a row from 1; 0 is padding.
        """
        row = (self.packed_length, self.packed_length)
        lengths = length or (row if self.packed_length else self.bucket_lengths[-1])
        # A bucket of the predictor has the source's length alone.
        return {
            side + suffix: jax.ShapeDtypeStruct((batch_size, size), jnp.int32)
            for side, size in zip(SIDES, np.atleast_1d(lengths).tolist(), strict=False)
            for suffix in ("", "_segments")
        }

    def dataset(self, split: str) -> EncodedPairs:
        """Opens the pairs of a split."""
        with within("task"):
            pairs = self._pairs(split)
        scored = split != "train"
        return EncodedPairs(pairs, self.encoders, self.limit, self.bucket_lengths, scored)

    def training(self) -> Dataset:
        """Opens the training pairs, packed if `packed_length` is set."""
        pairs = self.dataset("train")
        return PackedPairs(pairs, self.packed_length) if self.packed_length else pairs

    def init(self, key: jax.Array) -> tuple[Tree, Tree]:
        """Returns initial parameters; there are no other variables."""
        ones = jnp.ones((1, 2), jnp.int32)
        pairs = Pairs(ones, ones, ones, ones)
        outputs, initial = self.network.init_with_output(key, pairs, train=False)
        expected = {
            "logits [batch, target_length, classes]": (1, 2, 1 + self.target_tokenizer.size),
            "attention weights [batch, target_length, source_length]": (1, 2, 2),
        }
        check_outputs(self.network, outputs, expected)
        variables = dict(initial)
        return variables.pop("params"), variables

    def loss(
        self, params: Tree, variables: Tree, batch: Batch, key: jax.Array, train: bool
    ) -> tuple[dict[str, Average], Tree]:
        """Returns the cross-entropy per target token in nats, and the token accuracy.

        EOS counts as a token. Label smoothing applies in training only.
        """
        rngs = {"dropout": key} if train else {}
        pairs = Pairs(*(batch[name] for name in Pairs._fields))
        logits, _ = self._apply(params, pairs, train, rngs=rngs)
        log_probs = jax.nn.log_softmax(logits)
        target, present = batch["target"], batch["target_segments"] > 0
        weight = present.astype(jnp.float32) * batch["mask"][:, None]
        losses = -jnp.take_along_axis(log_probs, target[..., None], axis=-1)[..., 0]
        if train and self.label_smoothing:
            spread = self.label_smoothing
            losses = (1 - spread) * losses - spread * log_probs.mean(axis=-1)
        correct = (logits.argmax(axis=-1) == target).astype(jnp.float32)
        count = weight.sum()
        metrics = {
            "loss": Average((losses * weight).sum(), count),
            "accuracy": Average((correct * weight).sum(), count),
        }
        return metrics, variables

    def predict(self, params: Tree, variables: Tree, batch: Batch) -> Batch:
        """Returns the `n_best` hypotheses in descending order, and the attention of the best.

        `tokens` int32 [batch, n_best, max_length] with their `count` and `score` [batch, n_best];
        `attention` float16 [batch, max_length, source_length] and the number of its valid columns,
        `source_count` [batch].
        """
        source, segments = batch["source"], batch["source_segments"]
        found = self.search(params, source, segments)
        best = found.tokens[:, 0]
        decoded = jnp.arange(best.shape[1]) <= found.lengths[:, :1]
        pairs = Pairs(source, segments, best, decoded.astype(jnp.int32))
        _, attention = self._apply(params, pairs, False)
        n_best = self.decoding.n_best
        return {
            "tokens": found.tokens[:, :n_best] - 1,
            "count": found.lengths[:, :n_best],
            "score": found.score[:, :n_best],
            "attention": attention.astype(jnp.float16),
            "source_count": (segments > 0).sum(axis=1),
        }

    def search(self, params: Tree, source: jax.Array, segments: jax.Array) -> Hypotheses:
        """Returns the hypotheses of `beam_search`, as classes.

        Args:
          params: of the network.
          source: classes, int32 [batch, length].
          segments: of the source, int32 [batch, length].
        """
        batch, length = source.shape
        beam_size, max_length = self.decoding.beam_size, self.decoding.max_length(length)
        memory, state, cache = self._apply(
            params, source, segments, beam_size, max_length, method="init_decoding"
        )

        def step(*inputs: Any) -> tuple[jax.Array, Tree, Tree]:
            logits, state, cache = self._apply(params, memory, *inputs, method="decode_step")
            return jax.nn.log_softmax(logits), state, cache

        penalty = self.decoding.length_penalty
        return beam_search(step, state, cache, batch, beam_size, max_length, penalty)

    def scorer(self) -> PronunciationScorer | TranslationScorer:
        """Returns a scorer of error rates, or of BLEU and chrF."""
        kind = PronunciationScorer if self.scoring == "pronunciation" else TranslationScorer
        source, target = self.input_tokenizer, self.target_tokenizer
        return kind(
            target.decode,
            lambda text: [source.tokens[i] for i in source.encode(self.normalize_text(text))],
            lambda ids: [target.tokens[i] for i in ids],
        )

    def predictor(self) -> "SequenceToSequencePredictor":
        """Returns the predictor of output texts."""
        from research.tasks.sequence_to_sequence.predictor import SequenceToSequencePredictor

        return SequenceToSequencePredictor(self)

    def normalize_text(self, text: str) -> str:
        """Returns a text as the tokenizers expect it."""
        return text.lower() if self.lowercase else text

    @property
    def target_tokenizer(self) -> Tokenizer:
        """The tokenizer of the outputs."""
        return self.input_tokenizer if self.joint_vocabulary else self.output_tokenizer

    @property
    def encoders(self) -> list[Encode]:
        """Functions from a text to its classes without EOS, for the source and for the target."""

        def encode(tokenizer: Tokenizer, text: str) -> list[int]:
            return [1 + token for token in tokenizer.encode(self.normalize_text(text))]

        return [partial(encode, one) for one in (self.input_tokenizer, self.target_tokenizer)]

    @property
    def limit(self) -> Limit:
        """The maximum length of a side."""
        return Limit(self.max_length, self.truncate)

    @property
    def _is_resolved(self) -> bool:
        tokenizers = self.input_tokenizer.is_resolved and self.target_tokenizer.is_resolved
        return tokenizers and bool(self.bucket_lengths)

    def _pairs(self, split: str) -> Sequence[Pair]:
        with within("source"):
            return self.source.open(split)

    def _sample(self) -> list[Pair]:
        """Returns usable training pairs, the same each time."""
        pairs = self._pairs("train")
        chosen = np.arange(len(pairs))
        if len(pairs) > _SAMPLE:
            chosen = np.sort(np.random.default_rng(0).permutation(chosen)[:_SAMPLE])
        usable = [pair for pair in map(pairs.__getitem__, chosen.tolist()) if not pair.problem]
        if not usable:
            problem = (
                f"no usable training pair; the first one, {pairs[0].origin}: {pairs[0].problem}"
            )
            raise ConfigError("source", problem)
        return usable

    def _apply(self, params: Tree, *arguments: Any, **options: Any) -> Any:
        return self.network.apply({"params": params}, *arguments, **options)
