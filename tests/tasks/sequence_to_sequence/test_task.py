"""The task as the engine and a user see it."""

from dataclasses import replace
from functools import partial

import jax
import numpy as np
import pytest

from research.common.errors import ConfigError, UserError
from research.data.tokenizers import Bytes, Characters, WordPieces
from research.hardware.mesh import MeshConfig
from research.predict import predict
from research.tasks.sequence_to_sequence.decoding import Decoding
from research.tasks.sequence_to_sequence.models import Pairs
from research.tasks.sequence_to_sequence.task import SequenceToSequence
from research.tasks.sequence_to_sequence.transformer import TENSOR_RULES
from research.training.evaluation import evaluate
from research.training.experiment import Experiment
from research.training.input import input_pipeline
from research.training.loop import Trainer
from research.training.optimizer import Optimizer
from research.training.program import Program

from .conftest import MODELS

SHALLOW = MODELS["transformer"].clone(encoder_layers=1, decoder_layers=1)


def experiment(task, **changes):
    given = {
        "duration": "30 epochs",
        "batch_size": 32,
        "optimizer": Optimizer(learning_rate=1e-2),
        "mesh": MeshConfig(devices=1),
        "evaluate_every": "0 steps",
    }
    return Experiment(task=task, **(given | changes))


@pytest.fixture(scope="module")
def run(tmp_path_factory, backwards):
    """Trained until it can write some words backwards."""
    task = SequenceToSequence(
        source=backwards,
        output_tokenizer=Characters(),
        model=MODELS["lstm"].clone(features=32, encoder_layers=1, decoder_layers=1),
        scoring="pronunciation",
        longest=12,
        buckets=2,
    )
    return Trainer(experiment(task), tmp_path_factory.mktemp("runs") / "backwards").train()[0]


def test_it_learns_and_is_scored(run):
    dataset = run.program.task.dataset("test")
    results, scorer = evaluate(run.program, run.state, dataset)
    assert results["examples"] == 20
    assert results["wer"] == results["wer_first"] < 0.7  # a letter found by chance: 0.9 and more
    assert results["accuracy"] > 0.7
    assert len(scorer.figures(dataset)) >= 2


def test_what_is_written_of_a_text_is_what_evaluation_saw(run):
    task = run.program.task
    texts = [pair.source for pair in task.dataset("test").pairs]
    rows = list(predict(run, texts))
    assert [row["text"] for row in rows] == texts
    right = [row["output"] == text[::-1] for row, text in zip(rows, texts, strict=True)]
    results, _ = evaluate(run.program, run.state, task.dataset("test"))
    assert 1 - np.mean(right) == pytest.approx(results["wer"])


def test_several_outputs_come_best_first(run):
    task = replace(run.program.task, decoding=Decoding(beam=4, n_best=3))
    wide = replace(run, program=Program(replace(run.program.experiment, task=task)))
    (row,) = predict(wide, ["abcdef"])
    scores = [one["score"] for one in row["n_best"]]
    assert scores == sorted(scores, reverse=True) and len(scores) == 3
    assert row["output"] == row["n_best"][0]["output"]
    assert all(isinstance(one["ended"], bool) for one in row["n_best"])
    assert row["output 3"] == row["n_best"][2]["output"]


def test_hypotheses_score_what_the_whole_network_gives_them(task, model):
    """Though they change their slots as they grow."""
    task = replace(task, model=model, decoding=Decoding(beam=4)).resolve()
    program = Program(experiment(task))
    params = jax.tree.map(lambda leaf: 4 * leaf, program.initialize().params)
    batch = next(input_pipeline(program, task.dataset("test"), training=False).batches(0, 1))
    source, segments = batch["source"], batch["source_segments"]
    found = jax.jit(task.search)(params, source, segments)
    apply = jax.jit(partial(task.network.apply, train=False))
    capacity = found.tokens.shape[-1]
    for rank in range(4):
        tokens, lengths = found.tokens[:, rank], found.lengths[:, rank]
        written = (np.arange(capacity) <= lengths[:, None]).astype(np.int32)
        pairs = Pairs(source, segments, tokens, written)
        logits, _ = apply({"params": params}, pairs)
        log_probs = np.asarray(jax.nn.log_softmax(logits))
        each = np.take_along_axis(log_probs, np.asarray(tokens)[..., None], axis=-1)[..., 0]
        steps = np.minimum(lengths + 1, capacity)
        expected = (each * written).sum(1) / ((5 + steps) / 6) ** task.decoding.length_penalty
        np.testing.assert_allclose(found.score[:, rank], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (" ", "a text is empty; give one that is not"),
        ("a\udcff", "is not UTF-8; convert it"),
        ("xyz", "'xyz': the tokenizer's vocabulary lacks the characters 'x', 'y', 'z'"),
        ("abcdefabcdef", "has 13 tokens, at most 12 can be read"),
    ],
)
def test_a_text_that_cannot_be_read_is_refused(run, text, message):
    with pytest.raises(UserError, match=message):
        run.program.task.read(text)


def loss_of(task, **changes):
    """The mean loss over the first training batch, without dropout."""
    program = Program(experiment(task, **changes))
    state = program.initialize()
    batch = next(input_pipeline(program, task.training(), training=True).batches(0, 1))
    totals, _, _ = program.evaluate_step(state.params, state.variables, batch)
    return float(totals["loss"].total) / float(totals["loss"].count), float(totals["loss"].count)


def test_the_loss_counts_tokens_and_their_ends(task):
    task = task.resolve()
    dataset = task.dataset("test")
    program = Program(experiment(task))
    state = program.initialize()
    results, _ = evaluate(program, state.inference, dataset)
    # An untrained network finds all classes about equally probable.
    assert results["loss"] == pytest.approx(np.log(1 + task.output_tokenizer.size), rel=0.2)
    batch = next(input_pipeline(program, dataset, training=False).batches(0, 1))
    totals, _, _ = program.evaluate_step(state.params, state.variables, batch)
    members = np.asarray(batch["index"])
    counted = dataset.lengths[members[members >= 0], 1].sum()
    assert float(totals["loss"].count) == counted


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


def test_heads_and_width_are_split_over_the_tensor_axis(task):
    task = replace(task, model=SHALLOW).resolve()
    rules = (*TENSOR_RULES, (".*", "fsdp"))
    whole = loss_of(task)
    mesh = MeshConfig(devices=8, tensor=4, fsdp=2, rules=rules)
    split = loss_of(task, mesh=mesh)
    np.testing.assert_allclose(split, whole, rtol=1e-5)
    kernel = Program(experiment(task, mesh=mesh)).initialize().params["encoder_0"]["up"]["kernel"]
    assert kernel.sharding.shard_shape(kernel.shape) == (8, 6)


def test_packed_rows_give_the_loss_of_their_pairs(task):
    task = replace(task, model=SHALLOW).resolve()
    packed = replace(task, packed_length=64)
    program = Program(experiment(packed))
    state, sums, counts = program.initialize(), {}, {}
    for one in (task, packed):
        own = Program(experiment(one))
        pipeline = input_pipeline(own, one.training(), training=False)
        totals = [
            own.evaluate_step(state.params, {}, batch)[0]["loss"]
            for batch in pipeline.batches(0, pipeline.sampler.batches_per_epoch)
        ]
        sums[one], counts[one] = (
            sum(float(getattr(t, k)) for t in totals) for k in ("sum", "count")
        )
    assert counts[packed] == counts[task]
    assert sums[packed] == pytest.approx(sums[task], rel=1e-5)


@pytest.mark.parametrize(
    ("source", "joint"), [(Bytes(), False), (WordPieces(pieces=30), True), (Characters(), True)]
)
def test_any_tokenizer_serves(task, source, joint):
    task = replace(task, input_tokenizer=source, joint=joint, longest=40).resolve()
    assert task.resolve() is task
    example = task.dataset("train").example(0, np.random.default_rng(0))
    ids = example["target"][:-1] - 1
    decoder = task.input_tokenizer if joint else task.output_tokenizer
    assert decoder.decode(ids.tolist()) == task.dataset("train").pairs[0].target


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"packed_length": 64}, "AttentionLSTM reads one pair a row; use a Transformer"),
        ({"lowercase": True}, "lowercase: changes phonemes and not their references"),
        ({"label_smoothing": 1.0}, r"must lie in \[0, 1\)"),
        ({"longest": 1}, "no pair has sides of at most 1 tokens"),
        (
            {"packed_length": 8, "model": MODELS["transformer"]},
            "packed_length: must hold the longest pair, 12, is 8",
        ),
    ],
)
def test_a_config_that_cannot_work_is_refused(task, changes, message):
    with pytest.raises(ConfigError, match=message):
        replace(task, **changes).resolve()


def test_more_outputs_than_hypotheses_are_refused():
    with pytest.raises(ConfigError, match="5 cannot be had of a beam of 2"):
        Decoding(beam=2, n_best=5)
