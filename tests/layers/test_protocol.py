"""Models of the user's own that lack a part of the protocol are refused in one line."""

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

from research.common.errors import ConfigError
from research.tasks.object_detection.models import Detector
from research.tasks.object_detection.task import ObjectDetection
from research.tasks.sequence_to_sequence.models import AttentionLSTM
from research.tasks.sequence_to_sequence.task import SequenceToSequence
from research.tasks.speech_recognition.models import LSTMEncoder
from research.tasks.speech_recognition.task import SpeechRecognition


class Bare(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return x


@pytest.mark.parametrize(
    ("task", "missing"),
    [
        (ObjectDetection, "backbone, strides, channels, num_head_convs"),
        (SpeechRecognition, "check, num_frames, stride, window, bidirectional"),
        (SequenceToSequence, "check, supports_packing, init_decoding, decode_step"),
    ],
)
def test_missing_parts_of_the_protocol_are_listed(task, missing):
    with pytest.raises(ConfigError) as error:
        task(model=Bare())
    problem = f"missing methods or fields of Bare: add {missing}"
    assert str(error.value) == f"config.model.type: {problem}"


class FirstOutput(Detector):
    def __call__(self, images, train):
        return super().__call__(images, train)[0]


class Transposed(LSTMEncoder):
    def __call__(self, features, lengths, train):
        return super().__call__(features, lengths, train).swapaxes(1, 2)


class WithoutAttention(AttentionLSTM):
    def __call__(self, batch, train):
        return super().__call__(batch, train)[0], None


@pytest.mark.parametrize(
    ("task", "model", "message"),
    [
        (ObjectDetection, FirstOutput(), "return logits [batch, points, classes] and boxes"),
        (SpeechRecognition, Transposed(), "return log-probabilities [batch, frames, classes]"),
        (SequenceToSequence, WithoutAttention(), "and NoneType; return logits"),
    ],
)
def test_outputs_of_another_shape_are_refused(task, model, message):
    resolved = task(model=model).resolve_without_data()
    with pytest.raises(ConfigError) as error:
        jax.eval_shape(resolved.init, jax.random.key(0))
    problem = str(error.value)
    assert problem.startswith(f"config.task.model: invalid outputs of {type(model).__name__}")
    assert message in problem
    assert "\n" not in problem


def test_further_arguments_with_defaults_are_allowed():
    class Optional(Detector):
        def __call__(self, images, train, *, scale=1.0):
            return super().__call__(images * jnp.float32(scale), train)

    ObjectDetection(model=Optional())
