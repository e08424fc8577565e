"""Speech recognition as a task: connectionist temporal classification (CTC)."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from research.common.errors import ConfigError, UserError, within
from research.data.buckets import choose_buckets
from research.data.dataset import Bucket, Dataset, Example
from research.data.tokenizers import Characters, WordPieces, Words
from research.task import Average, Batch, Task, Tree
from research.tasks.speech_recognition.augmentation import Augmentation
from research.tasks.speech_recognition.data import (
    Corpus,
    FreeSpokenDigits,
    LibriSpeech,
    Manifest,
    SpeechTFDS,
    SpokenDigits,
)
from research.tasks.speech_recognition.decoding import Decoding
from research.tasks.speech_recognition.features import Given, LogMel
from research.tasks.speech_recognition.models import LSTMEncoder
from research.tasks.speech_recognition.scorer import TranscriptScorer

if TYPE_CHECKING:
    from research.tasks.speech_recognition.predictor import SpeechRecognitionPredictor

SILENCE = 1e-4  # the loudest sample of what is no speech; 3 steps of 16-bit audio


@dataclass(frozen=True)
class SpeechRecognition(Task):
    """The text of an utterance, from a network that scores every token in every frame."""

    source: SpokenDigits | FreeSpokenDigits | Manifest | LibriSpeech | SpeechTFDS = field(
        default_factory=SpokenDigits
    )
    """Where the utterances come from."""

    features: LogMel | Given = field(default_factory=LogMel)
    """What the network hears of them."""

    tokenizer: Characters | Words | WordPieces = field(default_factory=Characters)
    """What a text is made of."""

    lowercase: bool = True
    """Take all texts in lower case."""

    model: LSTMEncoder = field(default_factory=LSTMEncoder)
    """The network."""

    augmentation: Augmentation = field(default_factory=Augmentation)
    """What is done to the training utterances on the device."""

    decoding: Decoding = field(default_factory=Decoding)
    """How a text is found in the network's scores."""

    tokens_per_second: float = 25.0
    """Room for tokens in a batch; an utterance with more of them is skipped, and counted."""

    buckets: int = 6
    """The number of lengths that batches come in; each is compiled once."""

    bucket_seconds: tuple[float, ...] = ()
    """These lengths; empty: those that pad the training utterances least."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    """What the network computes in; its parameters are float32 in any case."""

    def __post_init__(self):
        if self.tokens_per_second <= 0:
            raise ConfigError("tokens_per_second", f"must be positive, is {self.tokens_per_second}")
        if self.buckets < 1:
            raise ConfigError("buckets", f"must be at least 1, is {self.buckets}")
        if list(self.bucket_seconds) != sorted(set(self.bucket_seconds)):
            raise ConfigError("bucket_seconds", f"must ascend, is {self.bucket_seconds}")
        with within("model"):
            self.model.check()

    def resolve(self) -> "SpeechRecognition":
        """With the tokenizer's vocabulary, the lengths of batches and a language model."""
        if self._is_resolved:
            return self
        corpus = self._corpus("train")
        usable = [one for one in corpus.utterances if not one.fault]
        if not usable:
            raise ConfigError("source", f"no utterance is usable: {corpus.utterances[0].fault}")
        texts = [self.normalize_text(one.text) for one in usable]
        seconds = np.array([one.seconds for one in usable])
        buckets = self.bucket_seconds or choose_buckets(seconds, self.buckets)
        with within("tokenizer"):
            tokenizer = self.tokenizer.resolve(texts)
        with within("decoding"):
            decoding = self.decoding.resolve(texts)
        return replace(
            self,
            tokenizer=tokenizer,
            bucket_seconds=tuple(round(length, 3) for length in buckets),
            decoding=decoding,
        )

    @cached_property
    def network(self) -> LSTMEncoder:
        """The model, made for the number of tokens and the blank."""
        return self.model.clone(classes=1 + self.tokenizer.size, dtype=jnp.dtype(self.dtype))

    def batch_spec(self, batch_size: int, length: Bucket | None) -> dict[str, jax.ShapeDtypeStruct]:
        """`input` float32 [batch, samples], or [batch, frames, size] of given features.

        `length` int32 [batch] is how much of it is valid; `tokens` int32 [batch, capacity] are the
        tokenizer's ids, of which `token_count` int32 [batch] are valid.
        """
        length = length or int(self.input_lengths(self.bucket_seconds)[-1])
        assert isinstance(length, int)  # an utterance has one side
        return {
            "input": jax.ShapeDtypeStruct(
                (batch_size, *self.features.input_shape(length)), jnp.float32
            ),
            "length": jax.ShapeDtypeStruct((batch_size,), jnp.int32),
            "tokens": jax.ShapeDtypeStruct((batch_size, self.capacity(length)), jnp.int32),
            "token_count": jax.ShapeDtypeStruct((batch_size,), jnp.int32),
        }

    def capacity(self, length: int) -> int:
        """The room for tokens beside an input of that length."""
        room = int(np.ceil(length / self.features.rate * self.tokens_per_second))
        return max(1, min(room, self.model.frames(self.features.frames(length))))

    def dataset(self, split: str) -> Dataset:
        """The utterances of a split."""
        with within("task"):
            corpus = self._corpus(split)
        return _Utterances(self, corpus)

    def init(self, key: jax.Array) -> tuple[Tree, Tree]:
        """Parameters; there are no other variables."""
        features = jnp.zeros((1, self.network.window, self.features.size))
        variables = dict(self.network.init(key, features, jnp.ones(1, jnp.int32), train=False))
        return variables.pop("params"), variables

    def loss(
        self, params: Tree, variables: Tree, batch: Batch, key: jax.Array, train: bool
    ) -> tuple[dict[str, Average], Tree]:
        """The CTC loss of an utterance in nats (Graves et al. 2006).

        An utterance with too few frames for its tokens has no alignment and does not count;
        `unalignable` is the part of such ones.
        """
        log_probs, frames = self._log_probs(params, batch, key if train else None)
        count = batch["token_count"]
        valid = jnp.arange(batch["tokens"].shape[1]) < count[:, None]
        labels = jnp.where(valid, batch["tokens"] + 1, 0)
        repeats = ((labels[:, 1:] == labels[:, :-1]) & valid[:, 1:]).sum(1)
        fits = frames >= count + repeats  # between two equal tokens there is a blank
        padding = jnp.arange(log_probs.shape[1]) >= frames[:, None]
        losses = optax.ctc_loss(
            log_probs, padding.astype(jnp.float32), labels, (~valid).astype(jnp.float32)
        )
        mask = batch["mask"]
        counted = mask * fits
        # Rounding can take the loss of a sure utterance below zero.
        losses = jnp.where(counted > 0, jnp.maximum(losses, 0), 0)
        metrics = {
            "loss": Average(losses.sum(), counted.sum()),
            "unalignable": Average((mask * ~fits).sum(), mask.sum()),
        }
        return metrics, variables

    def predict(self, params: Tree, variables: Tree, batch: Batch) -> Batch:
        """The tokens found, the frames of each, and the length of the input in seconds.

        `classes` and `probabilities` [batch, frames, 2] are the likeliest of each frame, of which
        pictures are made.
        """
        log_probs, frames = self._log_probs(params, batch, None)
        capacity = self.capacity(batch["input"].shape[1])
        found = self.decoding(log_probs, frames, capacity, self._language_model)
        probabilities, classes = jax.lax.top_k(jnp.exp(log_probs), 2)
        return {
            "tokens": found.tokens,
            "count": found.count,
            "first": found.first,
            "last": found.last,
            "seconds": batch["length"] / self.features.rate,
            "frames": frames,
            "classes": classes,
            "probabilities": probabilities,
        }

    def scorer(self) -> TranscriptScorer:
        """Word error rate, character error rate, and the part of utterances without an error."""
        return TranscriptScorer(self.tokenizer, self.extract_features)

    def predictor(self) -> "SpeechRecognitionPredictor":
        """Turns sound files, or files of features, into transcripts."""
        from research.tasks.speech_recognition.predictor import SpeechRecognitionPredictor

        return SpeechRecognitionPredictor(self)

    def extract_features(self, array: np.ndarray) -> tuple[np.ndarray, float]:
        """The features [frames, size] of one input, and its length in seconds."""
        features, frames = self.features(jnp.asarray(array)[None], jnp.array([len(array)]))
        return np.asarray(features)[0, : int(frames[0])], len(array) / self.features.rate

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

    def normalize_text(self, text: str) -> str:
        """A text as the tokenizer takes it."""
        return " ".join((text.lower() if self.lowercase else text).split())

    def input_lengths(self, seconds: Sequence[float]) -> np.ndarray:
        """Lengths in samples, or in frames of given features: int [utterances]."""
        exact = np.asarray(seconds) * self.features.rate
        return np.ceil(exact - 1e-3).astype(int)  # 0.29 s x 100 is 28.999999999999996

    def buckets_for(self, lengths: np.ndarray) -> tuple[int, ...]:
        """What inputs of such lengths are padded to: none is left out for being too long."""
        buckets = self.input_lengths(self.bucket_seconds).tolist()
        longest = int(lengths.max())
        return (*buckets, longest) if longest > buckets[-1] else tuple(buckets)

    def _log_probs(
        self, params: Tree, batch: Batch, key: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        """[batch, frames, classes] and the valid frames; augmented and with dropout by a key."""
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
        return log_probs, self.network.frames(lengths)


class _Utterances(Dataset):
    """A corpus as examples; what cannot be learned from is skipped and named."""

    lengths: np.ndarray

    def __init__(self, task: SpeechRecognition, corpus: Corpus):
        super().__init__()
        self.task, self.corpus = task, corpus
        self.lengths = task.input_lengths([one.seconds for one in corpus.utterances])
        self.buckets = task.buckets_for(self.lengths)

    def __len__(self) -> int:
        return len(self.corpus.utterances)

    def example(self, index: int, rng: np.random.Generator) -> Example | None:
        utterance = self.corpus.utterances[index]
        try:
            if utterance.fault:
                raise UserError(utterance.fault)
            array = self.corpus.read(index)
            tokens = self.task.tokenizer.encode(self.task.normalize_text(utterance.text))
            self._check(index, array, tokens)
        except UserError as error:
            self.skip(index, f"{utterance.where}: {error}")
            return None
        return {
            "input": array,
            "length": np.array(len(array), np.int32),
            "tokens": np.array(tokens, np.int32),
            "token_count": np.array(len(tokens), np.int32),
        }

    def _check(self, index: int, array: np.ndarray, tokens: list[int]) -> None:
        """Raises UserError where an utterance is silent, or its parts do not fit each other."""
        bucket = self.buckets[np.searchsorted(self.buckets, self.lengths[index])]
        rate = self.task.features.rate
        if len(array) > bucket:
            said, found = self.lengths[index] / rate, len(array) / rate
            raise UserError(f"lasts {found:.2f} s, and not {said:.2f} s; correct its duration")
        if array.ndim == 1 and tokens and np.abs(array).max() < SILENCE:
            raise UserError(f"is silent, but is to say {len(tokens)} tokens")
        frames = self.task.model.frames(self.task.features.frames(len(array)))
        repeats = sum(a == b for a, b in pairwise(tokens))
        if len(tokens) + repeats > frames:
            raise UserError(f"has {frames} frames, too few for its {len(tokens)} tokens")
        if len(tokens) > self.task.capacity(int(bucket)):
            raise UserError(f"has {len(tokens)} tokens; raise config.task.tokens_per_second")
