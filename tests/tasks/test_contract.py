"""The contract of a task, checked for every task with every model that it accepts.

`TABLE` lists the tasks at tiny sizes, each with its models. A model is tested by being listed, and
`test_every_model_is_listed` fails for a model that is not.
"""

import dataclasses
import inspect
import json
import re
from collections.abc import Callable
from functools import cache, cached_property, partial
from pathlib import Path
from typing import get_args, get_type_hints

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile
from flax import linen as nn
from jax import export
from PIL import Image

from research.common.config import from_config_dict, to_config_dict
from research.exporting.stablehlo import export_predict, inputs_and_outputs
from research.layers.resnet import ResNet
from research.task import Average, Task
from research.tasks.image_classification.data import Digits
from research.tasks.image_classification.models import (
    CNN,
    MLP,
    EfficientNetLite,
    FastResNet,
    MobileNetV3,
    ViT,
)
from research.tasks.image_classification.task import ImageClassification
from research.tasks.object_detection.data import DigitScenes
from research.tasks.object_detection.decoding import Decoding as DetectionDecoding
from research.tasks.object_detection.models import Detector
from research.tasks.object_detection.task import ObjectDetection
from research.tasks.sequence_to_sequence.data import ParallelText
from research.tasks.sequence_to_sequence.decoding import Decoding as Seq2SeqDecoding
from research.tasks.sequence_to_sequence.models import AttentionLSTM, Transformer
from research.tasks.sequence_to_sequence.task import SequenceToSequence
from research.tasks.speech_recognition.data import Manifest
from research.tasks.speech_recognition.features import LogMel
from research.tasks.speech_recognition.models import LSTMEncoder
from research.tasks.speech_recognition.task import SpeechRecognition
from research.training.experiment import Experiment
from research.training.initialize import by_path
from tests.tasks.nnx_task import NNXDigits

BATCH = 4  # examples
RATE = 8000  # Hz, of the recordings


@dataclasses.dataclass(frozen=True)
class Entry:
    """A task at a tiny size, and what its documentation promises."""

    build: Callable[[Path], Task]
    """Returns the task, not resolved; may write its data to a folder."""

    models: tuple[nn.Module | None, ...]
    """The configs of each of its models; None keeps the model of a task without a choice."""

    inputs: tuple[str, ...]
    """The arrays of a batch that `predict` may read; all others are targets."""

    predictions: dict[str, str]
    """Dtype and shape of each predicted array; a name stands for the same size everywhere."""

    write_item: Callable[[Path], str]
    """Returns an input for the predictor; may write it to a folder."""

    has_lengths: bool = False
    """Whether examples have lengths, and batches are padded to buckets."""


def write_digit(folder):
    np.save(folder / "digit.npy", np.arange(64, dtype=np.uint8).reshape(8, 8))
    return str(folder / "digit.npy")


def write_image(folder):
    pixels = np.random.default_rng(0).integers(256, size=(60, 100, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "image.png")
    return str(folder / "image.png")


def write_audio(folder, name="audio.wav", seconds=0.4, seed=0):
    noise = np.random.default_rng(seed).normal(scale=0.1, size=int(seconds * RATE))
    soundfile.write(folder / name, noise, RATE)
    return str(folder / name)


def noises(folder):
    """Recordings of noise: six short ones and two long ones, with the texts of words."""
    lines = []
    for number, seconds in enumerate((0.4, 0.3, 0.35, 0.5, 0.45, 0.25, 0.7, 0.8)):
        write_audio(folder, f"{number}.wav", seconds, number)
        text = ("ab", "b", "cab", "a", "bc", "c", "abc ab", "cab a")[number]
        lines.append(json.dumps({"audio_filepath": f"{number}.wav", "text": text}))
    path = folder / "noises.jsonl"
    path.write_text("\n".join(lines))
    return SpeechRecognition(
        source=Manifest(train=str(path), validation=str(path), test=str(path)),
        features=LogMel(sample_rate=RATE, num_mel_bins=8),
        tokens_per_second=100.0,  # room for one token per frame, whatever the padding
        bucket_seconds=(0.5, 0.8),
    )


def pronunciations(folder):
    """Words of the CMU Pronouncing Dictionary: six short ones and two long ones."""
    path = folder / "words.tsv"
    path.write_text(
        "tea\tT IY\nfour\tF AO R\nten\tT EH N\nfir\tF ER\nneat\tN IY T\nfort\tF AO R T\n"
        "fortune\tF AO R CH AH N\nreattain\tR IY AH T EY N\n"
    )
    files = (str(path),)
    return SequenceToSequence(
        source=ParallelText(train=files, validation=files, test=files),
        # A capacity that does not depend on the padding: outputs need not end by themselves.
        decoding=Seq2SeqDecoding(beam_size=3, n_best=2, max_length_ratio=0.0, max_length_offset=9),
        bucket_lengths=((5, 5), (9, 9)),
    )


def scenes(folder):
    return ObjectDetection(
        source=DigitScenes(
            scene_size=32,
            num_digits=(1, 2),
            digit_height=(12, 20),
            num_train_scenes=8,
            num_test_scenes=8,
        ),
        image_size=(32, 32),
        max_objects=3,
        decoding=DetectionDecoding(topk_candidates=20, max_detections=5, display_threshold=0.0),
    )


TABLE = {
    "ImageClassification": Entry(
        build=lambda folder: ImageClassification(source=Digits()),
        models=(
            MLP(widths=(8,), dropout=0.5),
            CNN(widths=(4, 8), dropout=0.5),
            ResNet(stem="cifar", width=4),
            FastResNet(widths=(4, 8), stem_width=4),
            EfficientNetLite(),
            MobileNetV3(),
            ViT(
                patch_size=4,
                features=8,
                num_layers=1,
                num_heads=2,
                feedforward_dim=8,
                dropout=0.5,
            ),
        ),
        inputs=("image",),
        predictions={"probability": "float32[batch, 10]"},
        write_item=write_image,
    ),
    "SpeechRecognition": Entry(
        build=noises,
        models=(LSTMEncoder(channels=(8,), strides=(2,), num_layers=1, features=8, dropout=0.5),),
        inputs=("input", "length"),
        predictions={
            "tokens": "int32[batch, capacity]",
            "first_frame": "int32[batch, capacity]",
            "last_frame": "int32[batch, capacity]",
            "token_count": "int32[batch]",
            "seconds": "float32[batch]",
            "frames": "int32[batch]",
            "classes": "int32[batch, frames, 2]",
            "probabilities": "float32[batch, frames, 2]",
        },
        write_item=write_audio,
        has_lengths=True,
    ),
    "SequenceToSequence": Entry(
        build=pronunciations,
        models=(
            AttentionLSTM(embedding_dim=8, features=8, dropout=0.5),
            Transformer(
                features=8,
                num_heads=2,
                feedforward_dim=8,
                num_encoder_layers=1,
                num_decoder_layers=1,
                dropout=0.5,
            ),
        ),
        inputs=("source", "source_segments"),
        predictions={
            "tokens": "int32[batch, 2, 9]",
            "count": "int32[batch, 2]",
            "score": "float32[batch, 2]",
            "attention": "float16[batch, 9, source_length]",
            "source_count": "int32[batch]",
        },
        write_item=lambda folder: "neat",
        has_lengths=True,
    ),
    "ObjectDetection": Entry(
        build=scenes,
        models=(
            Detector(
                backbone=ResNet(stem="strided", width=4),
                strides=(4, 8),
                channels=8,
                num_head_convs=1,
            ),
            Detector(EfficientNetLite(), strides=(4, 8), channels=8, num_head_convs=1),
            Detector(MobileNetV3(), strides=(4, 8), channels=8, num_head_convs=1),
        ),
        inputs=("image", "scale", "size"),
        predictions={
            "boxes": "float32[batch, 5, 4]",
            "scores": "float32[batch, 5]",
            "labels": "int32[batch, 5]",
        },
        write_item=write_image,
    ),
    "NNXDigits": Entry(
        build=lambda folder: NNXDigits(width=8, dropout=0.5),
        models=(None,),
        inputs=("image",),
        predictions={"probability": "float32[batch, classes]"},
        write_item=write_digit,
    ),
}
CASES = {
    f"{task}-{type(model).__name__ if model else 'own'}-{number}": (task, model)
    for task, entry in TABLE.items()
    for number, model in enumerate(entry.models)
}
# Models of a fixed size, whose programs take a minute to compile, and models that share the task
# with faster ones.
SLOW = (EfficientNetLite, MobileNetV3, CNN, FastResNet, ResNet, ViT, Transformer)
SLOW_BACKBONES = (EfficientNetLite, MobileNetV3)


def is_slow(model):
    return isinstance(model, SLOW) or isinstance(getattr(model, "backbone", None), SLOW_BACKBONES)


def marked(names):
    """Returns the names of cases as parameters, marked `slow` where the model is."""
    return [
        pytest.param(name, marks=[pytest.mark.slow] * is_slow(CASES[name][1])) for name in names
    ]


ALL_CASES = marked(CASES)
CASES_WITH_LENGTHS = marked(name for name, (task, _) in CASES.items() if TABLE[task].has_lengths)
LINEN_CASES = marked(name for name, (_, model) in CASES.items() if model)


class Case:
    """A task with one of its models, batches of its data, and its jitted functions.

    Compiling is what takes time, so the tests share these functions and few shapes of batches.
    """

    def __init__(self, entry: Entry, model: nn.Module | None, folder: Path):
        self.entry, self.folder = entry, folder
        task = entry.build(folder)
        self.task = (dataclasses.replace(task, model=model) if model else task).resolve()
        self.init = jax.jit(self.task.init)
        self.loss, self.predict, self.gradient = map(Counted, functions(self.task))
        params, self.variables = self.init(jax.random.key(0))
        self.params = perturbed(params)

    @cached_property
    def dataset(self):
        return self.task.dataset("test")

    @property
    def buckets(self):
        return self.dataset.buckets or (None,)

    def batch(self, first=0, size=BATCH, bucket=None, dataset=None):
        """Returns examples that fit the smallest bucket, padded to `bucket` (the smallest)."""
        dataset = dataset or self.dataset
        fitting = np.arange(len(dataset))
        if dataset.lengths is not None:
            lengths = dataset.lengths.reshape(len(dataset), -1)
            fitting = fitting[(lengths <= np.array(dataset.buckets[0])).all(axis=1)]
        indices = fitting[np.arange(first, first + size) % len(fitting)]
        return self.padded(dataset, indices, bucket or (dataset.buckets or (None,))[0])

    def halves(self):
        """Returns the examples of `batch()` in two batches, padded to the largest bucket."""
        size = BATCH // 2
        return [self.batch(first, size, self.buckets[-1]) for first in (0, size)]

    def padded(self, dataset, indices, bucket):
        """Returns a batch as the input pipeline makes it."""
        spec = self.task.batch_spec(1, bucket)
        shapes = {name: array.shape[1:] for name, array in spec.items()}
        return dataset.batch(indices, (0, 0), shapes) | {"index": indices.astype(np.int32)}

    def inputs(self, batch):
        """Returns the batch without targets."""
        return {name: batch[name] for name in (*self.entry.inputs, "mask", "index")}

    def evaluated(self, batch, key=0):
        """Returns metrics in evaluation, without new variables."""
        return self.loss(self.params, self.variables, batch, jax.random.key(key))[0]

    def predicted(self, batch):
        return jax.device_get(self.predict(self.params, self.variables, self.inputs(batch)))

    def trained(self, batch, key=0):
        """Returns metrics in training, new variables and the gradients of the summed loss."""
        return self.gradient(self.params, self.variables, batch, jax.random.key(key))


class Counted:
    """A jitted function, and how often it was traced, which is once for each compilation."""

    def __init__(self, function):
        self.traces = 0
        self._jitted = jax.jit(partial(self._trace, function))

    def __call__(self, *arguments):
        return self._jitted(*arguments)

    def _trace(self, function, *arguments):
        self.traces += 1
        before = self._snapshot(arguments)
        result = function(*arguments)
        assert self._snapshot(arguments) == before, "the task modifies its inputs"
        return result

    @staticmethod
    def _snapshot(arguments):
        leaves, tree = jax.tree.flatten(arguments)
        return tree, [id(leaf) for leaf in leaves]


def functions(task):
    """Returns the loss in evaluation, the prediction, and metrics and gradients in training."""

    def loss_sum(params, variables, batch, key):
        totals, new_variables = task.loss(params, variables, batch, key, train=True)
        return totals["loss"].total, (totals, new_variables)

    def gradient(params, variables, batch, key):
        gradients, (totals, new_variables) = jax.grad(loss_sum, has_aux=True)(
            params, variables, batch, key
        )
        return totals, new_variables, gradients

    return partial(task.loss, train=False), task.predict, gradient


def perturbed(params):
    """Moves parameters away from their initial values, where many outputs are equal or zero."""
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: leaf + 0.1 * rng.standard_normal(leaf.shape, np.float32),
        jax.device_get(params),
    )


@cache
def _case(name: str, folder: Path) -> Case:
    task, model = CASES[name]
    (folder / name).mkdir()
    return Case(TABLE[task], model, folder / name)


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("contract")


@pytest.fixture(scope="session", params=ALL_CASES)
def case(request, folder):
    return _case(request.param, folder)


def assert_close(found, expected):
    """Compares trees of arrays and plain values: floats up to rounding, everything else exactly."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(expected), strict=True
    ):
        where = jax.tree_util.keystr(path)
        a, b = np.asarray(a), np.asarray(b)
        if jnp.issubdtype(a.dtype, jnp.floating):
            rtol = max(1e-4, 2 * float(jnp.finfo(a.dtype).eps))
            np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-4, err_msg=where)
        else:
            np.testing.assert_array_equal(a, b, err_msg=where)


def assert_same_bits(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def described(tree):
    """Returns the structure of a tree with the shape and dtype of each array."""
    return jax.tree.map(lambda array: (array.shape, jnp.dtype(array.dtype)), tree)


def rows(tree, order):
    return jax.tree.map(lambda array: array[order], tree)


def masked(batch, mask):
    return batch | {"mask": np.array(mask, np.float32)}


@pytest.mark.parametrize("name", [*Task.variants(), "NNXDigits"])
def test_every_model_is_listed(name):
    assert name in TABLE, f"add {name} to TABLE in {__file__}"
    if name in Task.variants():
        accepted = get_type_hints(Task.variants()[name])["model"]
        missing = set(get_args(accepted) or (accepted,)) - set(map(type, TABLE[name].models))
        assert not missing, f"add these models of {name} to TABLE in {__file__}"


def test_every_backbone_of_the_detector_is_listed():
    listed = {type(model.backbone) for model in TABLE["ObjectDetection"].models}
    assert listed == set(get_args(get_type_hints(Detector)["backbone"]))


@pytest.mark.parametrize("name", LINEN_CASES)
def test_model_has_the_fields_that_the_task_fills_in(name):
    _, model = CASES[name]
    names = {field.name for field in dataclasses.fields(model)}
    assert "dtype" in names
    assert "dtype" not in to_config_dict(model), "declare it with not_configured"
    assert "train" in inspect.signature(type(model).__call__).parameters


@pytest.mark.parametrize("case", LINEN_CASES, indirect=True)
def test_config_of_resolved_task_is_complete(case):
    """The saved config alone restores the task; resolving it again changes nothing."""
    saved = json.loads(json.dumps(to_config_dict(Experiment(task=case.task)).to_dict()))
    restored = from_config_dict(Experiment, saved).task
    assert restored == case.task
    assert restored.resolve() == case.task


def test_vocabularies_name_each_slice(case):
    shapes = by_path({"params": case.params})
    for pattern, axis, names in case.task.vocabularies:
        paths = [path for path in shapes if re.search(pattern, path)]
        assert {shapes[path].shape[axis] for path in paths} <= {len(names)}
        assert len(set(names)) == len(names)
    covered = [p for pattern, *_ in case.task.vocabularies for p in shapes if re.search(pattern, p)]
    assert len(set(covered)) == len(covered)
    assert covered or not case.task.vocabularies


def test_examples_match_batch_spec(case):
    datasets = [case.task.dataset(split) for split in ("train", "validation", "test")]
    for dataset in (*datasets, case.task.training()):
        for bucket in dataset.buckets or (None,):
            batch = case.batch(dataset=dataset, bucket=bucket)
            spec = case.task.batch_spec(BATCH, bucket)
            assert described({name: batch[name] for name in spec}) == described(spec)
            assert set(batch) == {*spec, "mask", "index"}
            assert batch["mask"].all()
    largest = (case.task.training().buckets or (None,))[-1]
    spec = case.task.batch_spec(BATCH, None)
    assert described(spec) == described(case.task.batch_spec(BATCH, largest))


def test_parameters_are_float32_and_depend_on_the_key_alone(case):
    params, variables = first = case.init(jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves((params, variables))} == {jnp.dtype("float32")}
    assert_same_bits(case.init(jax.random.key(0)), first)
    other, _ = case.init(jax.random.key(1))
    changed = jax.tree.map(lambda a, b: not np.array_equal(a, b), params, other)
    assert any(jax.tree.leaves(changed))


def test_loss_returns_sums_and_variables(case):
    batch = case.batch()
    evaluated, kept = case.loss(case.params, case.variables, batch, jax.random.key(0))
    trained, updated, gradients = case.trained(batch)
    for totals in (evaluated, trained):
        assert totals["loss"].count > 0
        for total in totals.values():
            assert isinstance(total, Average)
            assert described(total) == Average(*[((), jnp.dtype("float32"))] * 2)
            assert np.isfinite(total.total) and total.count >= 0
    assert_same_bits(kept, case.variables)
    assert described(updated) == described(case.variables)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


def test_predictions_have_the_documented_shapes(case):
    sizes = {"batch": BATCH}
    predictions = case.predicted(case.batch())
    assert set(predictions) == set(case.entry.predictions)
    for name, documented in case.entry.predictions.items():
        dtype, *dimensions = re.findall(r"\w+", documented)
        assert predictions[name].dtype == dtype
        assert len(predictions[name].shape) == len(dimensions)
        for dimension, size in zip(dimensions, predictions[name].shape, strict=True):
            expected = int(dimension) if dimension.isdigit() else sizes.setdefault(dimension, size)
            assert size == expected, f"{name}: {dimension}"


@pytest.mark.parametrize("case", CASES_WITH_LENGTHS, indirect=True)
def test_padding_changes_no_result(case):
    """Predictions are the same in the smallest and the largest bucket, in batches of any size."""
    postprocess = case.task.predictor().postprocess

    def results(batches):
        predictions = [(case.predicted(batch), len(batch["mask"])) for batch in batches]
        return [postprocess([rows(one, i)]) for one, size in predictions for i in range(size)]

    assert case.buckets[0] != case.buckets[-1]
    assert_close(results(case.halves()), results([case.batch()]))


def test_examples_do_not_affect_each_other(case):
    """In evaluation, results depend neither on the other examples nor on their order."""
    batch, others = case.batch(), case.batch(first=BATCH)
    half, mask = slice(BATCH // 2), [1, 1, 0, 0]
    mixed = {name: np.concatenate([batch[name][:2], others[name][2:]]) for name in batch}
    backwards = rows(batch, slice(None, None, -1))
    metrics, predictions = case.evaluated(masked(batch, mask)), case.predicted(batch)
    assert_close(case.evaluated(masked(mixed, mask)), metrics)
    assert_close(rows(case.predicted(mixed), half), rows(predictions, half))
    assert_close(case.evaluated(masked(backwards, mask[::-1])), metrics)
    assert_close(rows(case.predicted(backwards), slice(None, None, -1)), predictions)


def test_masked_examples_count_zero(case):
    nothing = masked(case.batch(), [0] * BATCH)
    trained, _, gradients = case.trained(nothing)
    results = case.evaluated(nothing), trained, gradients
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(results))


def test_metrics_are_sums_over_examples(case):
    """Single examples, and half batches with another padding, add up to the whole batch."""
    batch = case.batch()
    single = [case.evaluated(masked(batch, mask)) for mask in np.eye(BATCH)]
    halves = map(case.evaluated, case.halves())
    for parts in (single, halves):
        assert_close(jax.tree.map(lambda *values: sum(values), *parts), case.evaluated(batch))


def test_results_are_functions_of_the_arguments_alone(case):
    batch, key = case.batch(), jax.random.key(0)
    metrics, trained = case.evaluated(batch), case.trained(batch)
    assert_same_bits(case.evaluated(batch, key=1), metrics)
    assert_same_bits(case.trained(batch), trained)
    if getattr(getattr(case.task, "model", case.task), "dropout", 0):
        assert case.trained(batch, key=1)[0]["loss"].total != trained[0]["loss"].total
    # An equal task, traced anew, shares no state with the first.
    loss, _, _ = functions(dataclasses.replace(case.task))
    assert_same_bits(jax.jit(loss)(case.params, case.variables, batch, key)[0], metrics)


def test_each_bucket_is_compiled_once(case):
    """Over several batches, some with padding, each step starting from the state of the last."""
    dataset = case.task.training()
    buckets = dataset.buckets or (None,)
    params, variables, counts = case.params, case.variables, []
    for epoch in range(3):
        for number, bucket in enumerate(buckets):
            size = BATCH // 2 if number else BATCH  # as of longer examples, fewer fit in a batch
            batch = case.batch(number + epoch, size, bucket, dataset)
            batch = masked(batch, np.arange(size) < size - epoch)
            if number == 0:  # one bucket shows whether the state keeps its types
                _, variables, gradients = case.gradient(
                    params, variables, batch, jax.random.key(epoch)
                )
                params = jax.tree.map(lambda p, g: p - 1e-3 * g, params, jax.device_get(gradients))
            case.loss(params, variables, batch, jax.random.key(epoch))
            case.predict(params, variables, case.inputs(batch))
        counts.append([one.traces for one in (case.loss, case.predict, case.gradient)])
    assert counts[0] == counts[1] == counts[2]


@pytest.mark.slow
@pytest.mark.parametrize("case", LINEN_CASES, indirect=True)
def test_bfloat16_is_close_to_float32(case):
    batch = case.batch()
    metrics, predictions = case.evaluated(batch), case.predicted(batch)
    loss, predict, _ = functions(dataclasses.replace(case.task, dtype="bfloat16"))
    # Flax's normalisation layers promote bfloat16 inputs to their float32 statistics implicitly.
    with jax.numpy_dtype_promotion("standard"):
        rough, _ = jax.jit(loss)(case.params, case.variables, batch, jax.random.key(0))
        program, rough_predictions = jax.make_jaxpr(predict, return_shape=True)(
            case.params, case.variables, batch
        )
    # The network itself computes in bfloat16, not only its inputs are rounded.
    assert re.search(r":bf16\[[\d,]*\] = (dot_general|conv_general_dilated)\[", str(program))
    assert described(rough) == described(metrics)
    assert described(rough_predictions) == described(predictions)
    exact_loss, rough_loss = float(metrics["loss"].total), float(rough["loss"].total)
    assert rough_loss == pytest.approx(exact_loss, rel=0.05)
    assert rough_loss != exact_loss


def test_prediction_needs_no_targets(case):
    """Without targets in the batch, `predict` returns what it returns with them."""
    batch = case.batch()
    assert set(case.entry.inputs) < set(case.task.batch_spec(BATCH, None))
    assert_close(case.predict(case.params, case.variables, batch), case.predicted(batch))


def test_result_of_a_prediction_is_json(case):
    predictor = case.task.predictor()
    inputs = predictor.preprocess(case.entry.write_item(case.folder))
    bucket = None
    if inputs.lengths is not None:
        fits = (np.all(inputs.lengths[0] <= np.array(bucket)) for bucket in inputs.buckets)
        bucket = next(b for b, fit in zip(inputs.buckets, fits, strict=True) if fit)
    predictions = case.predicted(case.padded(inputs, np.zeros(BATCH, int), bucket))
    result = predictor.postprocess([rows(predictions, 0)])
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    table = predictor.to_rows(result)
    assert table and all(row.keys() == table[0].keys() for row in table)
    assert type(predictor).input_kind in ("file", "text")


def test_scorer_adds_batches_up(case):
    """Metrics depend on the examples alone, not on how they are batched."""
    batch = case.batch()
    predictions = case.predicted(batch)

    def result(parts):
        scorer = case.task.scorer()
        targets = {name: batch[name] for name in (*scorer.targets, "index")}
        for part in parts:
            scorer.update(rows(targets, part), rows(predictions, part))
        return scorer.result(case.dataset)

    whole = result([slice(0, 4)])
    assert all(isinstance(value, float) for value in whole.values())
    assert result([slice(0, 1), slice(1, 4)]) == pytest.approx(whole, nan_ok=True)


@pytest.mark.slow
def test_exported_prediction_equals_the_live_one(case):
    spec = case.task.batch_spec(BATCH, None)
    exported = export_predict(case.task, case.params, jax.device_get(case.variables), spec)
    assert exported.platforms == ("cpu", "cuda", "tpu")
    inputs, _ = inputs_and_outputs(exported)
    assert set(inputs) == set(case.entry.inputs)
    program = export.deserialize(exported.serialize())
    for size in (1, BATCH):
        batch = case.batch(size=size, bucket=case.buckets[-1])
        found = jax.device_get(program.call({name: batch[name] for name in inputs}))
        for name, expected in case.predicted(batch).items():
            tolerance = 0.0
            if jnp.issubdtype(expected.dtype, jnp.floating):
                tolerance = max(1e-5, float(jnp.finfo(expected.dtype).eps))
            np.testing.assert_allclose(found[name], expected, rtol=0, atol=tolerance, err_msg=name)
