"""Speech recognition as a task: connectionist temporal classification (CTC)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from research.common.config import renamed_from
from research.common.errors import ConfigError, within
from research.data.buckets import choose_buckets
from research.data.dataset import Bucket, Dataset
from research.data.tokenizers import Characters, WordPieces, Words
from research.layers.protocol import check_interface, check_outputs
from research.layers.top_k import top_k
from research.task import Average, Batch, Task, Tree, Vocabularies
from research.tasks.speech_recognition.augmentation import Augmentation
from research.tasks.speech_recognition.ctc import ctc_loss
from research.tasks.speech_recognition.data import (
    Corpus,
    FreeSpokenDigits,
    LibriSpeech,
    Manifest,
    SpeechTFDS,
    SpokenDigits,
    TranscribedUtterances,
)
from research.tasks.speech_recognition.decoding import Decoding
from research.tasks.speech_recognition.features import LogMel, PrecomputedFeatures
from research.tasks.speech_recognition.models import LSTMEncoder
from research.tasks.speech_recognition.scorer import METRICS, TranscriptScorer

if TYPE_CHECKING:
    from research.tasks.speech_recognition.predictor import SpeechRecognitionPredictor

_MODEL_ATTRIBUTES = ("check", "num_frames", "stride", "window", "bidirectional")


@dataclass(frozen=True)
class SpeechRecognition(Task):
    """Transcribes an utterance with a network that scores each token in each frame."""

    metrics = METRICS

    source: SpokenDigits | FreeSpokenDigits | Manifest | LibriSpeech | SpeechTFDS = field(
        default_factory=SpokenDigits
    )
    """The dataset of transcribed utterances."""

    features: LogMel | PrecomputedFeatures = field(default_factory=LogMel)
    """Acoustic features, the input of the network."""

    tokenizer: Characters | Words | WordPieces = field(default_factory=Characters)
    """Units of the transcripts."""

    lowercase: bool = True
    """Convert transcripts to lower case."""

    model: LSTMEncoder = field(default_factory=LSTMEncoder)
    """The network."""

    augmentation: Augmentation = field(default_factory=Augmentation)
    """Augmentation of the training utterances."""

    decoding: Decoding = field(default_factory=Decoding)
    """Search for the best token sequence."""

    tokens_per_second: float = 25.0
    """Maximum number of tokens per second of input; utterances with more are skipped."""

    num_buckets: int = renamed_from("buckets", default=6)
    """Maximum number of lengths that batches are padded to; each is compiled once."""

    bucket_seconds: tuple[float, ...] = ()
    """These lengths in seconds; empty: those that minimise padding of the training utterances."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    """Computation dtype of the network; parameters are always float32."""

    def __post_init__(self):
        if self.tokens_per_second <= 0:
            problem = f"invalid rate {self.tokens_per_second}: expected a positive number"
            raise ConfigError("tokens_per_second", problem)
        if self.num_buckets < 1:
            problem = f"invalid number {self.num_buckets}: expected at least 1"
            raise ConfigError("num_buckets", problem)
        if list(self.bucket_seconds) != sorted(set(self.bucket_seconds)):
            problem = f"invalid lengths {self.bucket_seconds}: expected increasing numbers"
            raise ConfigError("bucket_seconds", problem)
        with within("model"):
            check_interface(self.model, ("features", "lengths"), _MODEL_ATTRIBUTES)
            self.model.check()

    def resolve(self) -> "SpeechRecognition":
        """Returns the task with vocabulary, bucket lengths and language model filled in."""
        if self._is_resolved:
            return self
        corpus = self._corpus("train")
        usable = [one for one in corpus.utterances if not one.problem]
        if not usable:
            problem = f"no usable utterance; the first: {corpus.utterances[0].problem}"
            raise ConfigError("source", problem)
        texts = [self.normalize_text(one.text) for one in usable]
        seconds = np.array([one.seconds for one in usable])
        buckets = self.bucket_seconds or choose_buckets(seconds, self.num_buckets)
        with within("tokenizer"):
            tokenizer = self.tokenizer.resolve(texts)
        with within("decoding"):
            decoding = self.decoding.resolve(texts)
        return replace(
            self,
            tokenizer=tokenizer,
            # Rounded up: the longest utterances must fit.
            bucket_seconds=tuple(math.ceil(1000 * length - 1e-3) / 1000 for length in buckets),
            decoding=decoding,
        )

    def resolve_without_data(self) -> "SpeechRecognition":
        """Returns the task with one bucket of 16 s and a vocabulary, where the config has none."""
        return replace(
            self,
            tokenizer=self.tokenizer.resolve_without_data(),
            bucket_seconds=self.bucket_seconds or (16.0,),
        )

    @cached_property
    def network(self) -> LSTMEncoder:
        """The model with one class per token and the blank."""
        return self.model.clone(num_classes=1 + self.tokenizer.size, dtype=jnp.dtype(self.dtype))

    @property
    def vocabularies(self) -> Vocabularies:
        """The last layer has a slice for the blank, "", and each token."""
        names = ("", *self.tokenizer.tokens)
        return ("^params/head/kernel$", 1, names), ("^params/head/bias$", 0, names)

    @property
    def buckets(self) -> tuple[Bucket, ...]:
        """The lengths of `bucket_seconds`, in samples or frames."""
        return tuple(int(length) for length in self.input_lengths(self.bucket_seconds))

    def batch_spec(self, batch_size: int, length: Bucket | None) -> dict[str, jax.ShapeDtypeStruct]:
        """Returns the specification of a batch.

        `input` is audio float32 [batch, samples], or precomputed features float32 [batch, frames,
        size], of which `length` int32 [batch] are valid. `tokens` int32 [batch, capacity] are token
        ids, of which `token_count` int32 [batch] are valid.
        """
        length = length or int(self.input_lengths(self.bucket_seconds)[-1])
        assert isinstance(length, int)  # speech examples have one length
        return {
            "input": jax.ShapeDtypeStruct(
                (batch_size, *self.features.input_shape(length)), jnp.float32
            ),
            "length": jax.ShapeDtypeStruct((batch_size,), jnp.int32),
            "tokens": jax.ShapeDtypeStruct((batch_size, self.token_capacity(length)), jnp.int32),
            "token_count": jax.ShapeDtypeStruct((batch_size,), jnp.int32),
        }

    def token_capacity(self, length: int) -> int:
        """Returns the maximum number of tokens of an input of `length` samples or frames."""
        tokens = int(np.ceil(length / self.features.rate * self.tokens_per_second))
        return max(1, min(tokens, self.model.num_frames(self.features.num_frames(length))))

    def dataset(self, split: str) -> Dataset:
        """Opens the utterances of a split."""
        with within("task"):
            corpus = self._corpus(split)
        return TranscribedUtterances(self, corpus)

    def init(self, key: jax.Array) -> tuple[Tree, Tree]:
        """Returns initial parameters; there are no other variables."""
        network, window = self.network, self.network.window
        features, lengths = jnp.zeros((1, window, self.features.size)), jnp.ones(1, jnp.int32)
        log_probs, initial = network.init_with_output(key, features, lengths, train=False)
        shape = (1, network.num_frames(window), network.num_classes)
        check_outputs(network, log_probs, {"log-probabilities [batch, frames, classes]": shape})
        variables = dict(initial)
        return variables.pop("params"), variables

    def loss(
        self, params: Tree, variables: Tree, batch: Batch, key: jax.Array, train: bool
    ) -> tuple[dict[str, Average], Tree]:
        """Computes the CTC loss per utterance in nats (Graves et al. 2006).

        An utterance with too few frames for its tokens has no alignment and is excluded from the
        loss; `unalignable` is the fraction of such utterances.
        """
        log_probs, frames = self._log_probs(params, batch, key if train else None)
        tokens, count = batch["tokens"], batch["token_count"]
        valid = jnp.arange(tokens.shape[1]) < count[:, None]
        repeats = ((tokens[:, 1:] == tokens[:, :-1]) & valid[:, 1:]).sum(1)
        is_alignable = frames >= count + repeats  # equal tokens need a blank between them
        losses = ctc_loss(log_probs, frames, tokens, count)
        mask = batch["mask"]
        counted = mask * is_alignable.astype(mask.dtype)
        # Rounding can make the loss negative where the probability of the labels is almost 1.
        losses = jnp.where(counted > 0, jnp.maximum(losses, 0), 0)
        metrics = {
            "loss": Average(losses.sum(), counted.sum()),
            "unalignable": Average((mask * (~is_alignable).astype(mask.dtype)).sum(), mask.sum()),
        }
        return metrics, variables

    def predict(self, params: Tree, variables: Tree, batch: Batch) -> Batch:
        """Decodes a batch.

        Returns:
          `tokens` int32 [batch, capacity], their `first_frame` and `last_frame`, and `token_count`
          [batch]; `seconds` float32 [batch] of the input, and the number of output `frames`. The
          two most probable `classes` of each frame and their `probabilities`, [batch, frames, 2],
          serve figures.
        """
        log_probs, frames = self._log_probs(params, batch, None)
        capacity = self.token_capacity(batch["input"].shape[1])
        language_model = variables.get("language_model", self._language_model)
        hypothesis = self.decoding(log_probs, frames, capacity, language_model)
        probabilities, classes = top_k(jnp.exp(log_probs), 2)
        return {
            "tokens": hypothesis.tokens,
            "token_count": hypothesis.token_count,
            "first_frame": hypothesis.first_frame,
            "last_frame": hypothesis.last_frame,
            "seconds": batch["length"].astype(jnp.float32) / self.features.rate,
            "frames": frames,
            "classes": classes,
            "probabilities": probabilities,
        }

    def tables(self) -> Tree:
        """Returns the language model of the decoding, if it has one."""
        model = self._language_model
        return {} if model is None else {"language_model": model}

    def scorer(self) -> TranscriptScorer:
        """Returns a scorer of word and character error rates and sentence accuracy."""
        band_hz = getattr(self.features, "band_hz", None)
        return TranscriptScorer(self.tokenizer, self.extract_features, band_hz)

    def predictor(self) -> "SpeechRecognitionPredictor":
        """Returns the predictor, which transcribes files."""
        from research.tasks.speech_recognition.predictor import SpeechRecognitionPredictor

        return SpeechRecognitionPredictor(self)

    def extract_features(self, array: np.ndarray) -> tuple[np.ndarray, float]:
        """Returns the features [frames, size] of one input, and its duration in seconds."""
        features, frames = self.features(jnp.asarray(array)[None], jnp.array([len(array)]))
        return np.asarray(features)[0, : int(frames[0])], len(array) / self.features.rate

    def normalize_text(self, text: str) -> str:
        """Returns a transcript with single spaces, in lower case if the config asks for it."""
        return " ".join((text.lower() if self.lowercase else text).split())

    def input_lengths(self, seconds: Sequence[float]) -> np.ndarray:
        """Converts durations to lengths in samples, or in frames of features: int [utterances]."""
        exact = np.asarray(seconds) * self.features.rate
        return np.ceil(exact - 1e-3).astype(int)  # 0.29 s x 100 is 28.999999999999996

    def buckets_for(self, lengths: np.ndarray) -> tuple[int, ...]:
        """Returns the lengths to pad inputs to; an extra one if some exceed all buckets."""
        buckets = self.input_lengths(self.bucket_seconds).tolist()
        max_length = int(lengths.max())
        return (*buckets, max_length) if max_length > buckets[-1] else tuple(buckets)

    @property
    def _is_resolved(self) -> bool:
        parts = self.tokenizer.is_resolved and self.decoding.is_resolved
        return bool(self.bucket_seconds) and parts

    @cached_property
    def _language_model(self) -> Any:
        return self.decoding.load(self.tokenizer)

    def _corpus(self, split: str) -> Corpus:
        with within("source"):
            return self.source.open(split, self.features)

    def _log_probs(
        self, params: Tree, batch: Batch, key: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        """Returns log-probabilities [batch, frames, classes] and the numbers of valid frames.

        Args:
          params: of the network.
          batch: as in `batch_spec`.
          key: random key of augmentation and dropout; None for neither.
        """
        x, lengths = batch["input"], batch["length"]
        rngs = {}
        if key is not None:
            audio_key, features_key, rngs["dropout"] = jax.random.split(key, 3)
            if isinstance(self.features, LogMel):
                x, lengths = self.augmentation.audio(
                    audio_key, x, lengths, self.features.sample_rate
                )
        features, lengths = self.features(x, lengths)
        if key is not None:
            features, lengths = self.augmentation.features(features_key, features, lengths)
        log_probs: Any = self.network.apply(
            {"params": params}, features, lengths, train=key is not None, rngs=rngs
        )
        return log_probs, self.network.num_frames(lengths)
