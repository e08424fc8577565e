"""The task in the engine: training, evaluation, losses and configs."""

from dataclasses import replace
from functools import partial

import jax
import numpy as np
import pytest

from research.common.config import from_config_dict, to_config_dict
from research.common.errors import ConfigError
from research.data.tokenizers import Bytes, Characters, WordPieces
from research.hardware.mesh import MeshConfig
from research.layers.transformer import TENSOR_RULES
from research.tasks.sequence_to_sequence.decoding import Decoding
from research.tasks.sequence_to_sequence.models import Pairs
from research.tasks.sequence_to_sequence.task import SequenceToSequence
from research.training.evaluation import evaluate
from research.training.input import input_pipeline
from research.training.program import Program

from .conftest import MODELS, experiment

SHALLOW = MODELS["transformer"].clone(num_encoder_layers=1, num_decoder_layers=1)


@pytest.mark.slow
def test_training_reaches_a_score(run):
    dataset = run.program.task.dataset("test")
    results, scorer = evaluate(run.program, run.state, dataset)
    assert results["examples"] == 20
    assert results["wer"] == results["wer_first"] < 0.7  # guessing gives more than 0.9
    assert results["accuracy"] > 0.7
    assert len(scorer.figures(dataset)) >= 2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lstm", "transformer"])
def test_scores_of_hypotheses_equal_teacher_forcing(task, name):
    """Even though hypotheses move between slots."""
    task = replace(task, model=MODELS[name], decoding=Decoding(beam_size=4)).resolve()
    program = Program(experiment(task))
    params = jax.tree.map(lambda leaf: 4 * leaf, program.initialize().params)
    batch = next(input_pipeline(program, task.dataset("test"), training=False).batches(0, 1))
    source, segments = batch["source"], batch["source_segments"]
    found = jax.jit(task.search)(params, source, segments)
    apply = jax.jit(partial(task.network.apply, train=False))
    max_length = found.tokens.shape[-1]
    for rank in range(4):
        tokens, lengths = found.tokens[:, rank], found.lengths[:, rank]
        decoded = np.arange(max_length) <= np.asarray(lengths)[:, None]
        pairs = Pairs(source, segments, tokens, decoded.astype(np.int32))
        logits, _ = apply({"params": params}, pairs)
        log_probs = np.asarray(jax.nn.log_softmax(logits))
        each = np.take_along_axis(log_probs, np.asarray(tokens)[..., None], axis=-1)[..., 0]
        steps = np.minimum(np.asarray(lengths) + 1, max_length)
        expected = (each * decoded).sum(1) / ((5 + steps) / 6) ** task.decoding.length_penalty
        np.testing.assert_allclose(found.score[:, rank], expected, rtol=1e-5, atol=1e-5)


def loss_of(task, **changes):
    """The mean loss over the first training batch, without dropout."""
    program = Program(experiment(task, **changes))
    state = program.initialize()
    batch = next(input_pipeline(program, task.training(), training=True).batches(0, 1))
    totals, _, _ = program.evaluate_step(state.inference, batch)
    return float(totals["loss"].total) / float(totals["loss"].count), float(totals["loss"].count)


@pytest.mark.slow
def test_the_loss_counts_tokens_and_eos(task):
    task = task.resolve()
    dataset = task.dataset("test")
    program = Program(experiment(task))
    state = program.initialize()
    results, _ = evaluate(program, state.inference, dataset)
    # The initial network predicts a nearly uniform distribution.
    assert results["loss"] == pytest.approx(np.log(1 + task.output_tokenizer.size), rel=0.2)
    batch = next(input_pipeline(program, dataset, training=False).batches(0, 1))
    totals, _, _ = program.evaluate_step(state.inference, batch)
    members = np.asarray(batch["index"])
    counted = dataset.lengths[members[members >= 0], 1].sum()
    assert float(totals["loss"].count) == counted


@pytest.mark.slow
def test_labels_are_smoothed_in_training_alone(task):
    task = task.resolve()
    program = Program(experiment(task))
    state = program.initialize()
    params = jax.tree.map(lambda leaf: 5 * leaf, state.params)  # far from equal probabilities
    batch = next(input_pipeline(program, task.dataset("test"), training=False).batches(0, 1))
    smooth = replace(task, label_smoothing=0.5, model=task.model.clone(dropout=0.0))
    plain = replace(task, model=task.model.clone(dropout=0.0))

    def loss(task, train):
        totals, _ = task.loss(params, {}, batch, jax.random.key(0), train)
        return float(totals["loss"].total)

    assert loss(smooth, False) == loss(plain, False)
    assert loss(smooth, True) != pytest.approx(loss(plain, True), rel=1e-4)


@pytest.mark.slow
def test_heads_and_hidden_units_are_sharded_over_the_tensor_axis(task):
    task = replace(task, model=SHALLOW).resolve()
    rules = (*TENSOR_RULES, (".*", "fsdp"))
    whole = loss_of(task)
    mesh = MeshConfig(devices=8, tensor=4, fsdp=2, rules=rules)
    split = loss_of(task, mesh=mesh)
    np.testing.assert_allclose(split, whole, rtol=1e-5)
    kernel = Program(experiment(task, mesh=mesh)).initialize().params["encoder_0"]["up"]["kernel"]
    assert kernel.sharding.shard_shape(kernel.shape) == (8, 6)


@pytest.mark.slow
def test_the_loss_of_packed_rows_equals_that_of_their_pairs(task):
    task = replace(task, model=SHALLOW).resolve()
    packed = replace(task, packed_length=64)
    program = Program(experiment(packed))
    state, sums, counts = program.initialize(), {}, {}
    for one in (task, packed):
        own = Program(experiment(one))
        pipeline = input_pipeline(own, one.training(), training=False)
        totals = [
            own.evaluate_step(state.inference, batch)[0]["loss"]
            for batch in pipeline.batches(0, pipeline.sampler.batches_per_epoch)
        ]
        sums[one], counts[one] = (
            sum(float(getattr(t, k)) for t in totals) for k in ("total", "count")
        )
    assert counts[packed] == counts[task]
    assert sums[packed] == pytest.approx(sums[task], rel=1e-5)


@pytest.mark.parametrize(
    ("tokenizer", "joint"),
    [(Bytes(), False), (WordPieces(vocab_size=30), True), (Characters(), True)],
)
def test_any_tokenizer_encodes_the_task(task, tokenizer, joint):
    task = replace(task, input_tokenizer=tokenizer, joint_vocabulary=joint, max_length=40).resolve()
    assert task.resolve() is task
    example = task.dataset("train").example(0, np.random.default_rng(0))
    ids = example["target"][:-1] - 1
    decoder = task.input_tokenizer if joint else task.output_tokenizer
    assert decoder.decode(ids.tolist()) == task.dataset("train").pairs[0].target


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"packed_length": 64}, "AttentionLSTM does not support packing; use a Transformer"),
        ({"lowercase": True}, "lowercase: invalid with scoring=pronunciation"),
        ({"label_smoothing": 1.0}, r"invalid value 1.0: expected a number in \[0, 1\)"),
        ({"max_length": 1}, "max_length: invalid length 1: every pair has a longer side"),
        (
            {"packed_length": 8, "model": MODELS["transformer"]},
            "packed_length: invalid length 8: expected at least max_length=12",
        ),
    ],
)
def test_invalid_configs_are_refused(task, changes, message):
    with pytest.raises(ConfigError, match=message):
        replace(task, **changes).resolve()


def test_saved_configs_with_former_keys_open(task):
    saved = to_config_dict(replace(task, joint_vocabulary=True, truncate=True)).to_dict()
    former = {"joint_vocabulary": "joint", "max_length": "longest", "num_buckets": "buckets"}
    old = {former.get(key, key): value for key, value in saved.items() if key != "truncate"}
    assert from_config_dict(SequenceToSequence, old | {"too_long": "truncate"}) == replace(
        task, joint_vocabulary=True, truncate=True
    )
