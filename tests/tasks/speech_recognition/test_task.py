import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile

from research.common.config import from_config_dict, to_config_dict
from research.common.errors import ConfigError
from research.data.tokenizers import WordPieces, Words
from research.hardware.mesh import MeshConfig
from research.tasks.speech_recognition.augmentation import Augmentation
from research.tasks.speech_recognition.data import (
    Corpus,
    Manifest,
    TranscribedUtterances,
    Utterance,
)
from research.tasks.speech_recognition.decoding import Decoding
from research.tasks.speech_recognition.task import SpeechRecognition
from research.training.evaluation import evaluate
from research.training.experiment import Experiment
from research.training.loop import Trainer
from research.training.optimizer import Optimizer
from research.training.program import Program
from tests.tasks.speech_recognition.conftest import RATE, synthesize


def example(task, index=0, split="train"):
    return task.dataset(split).example(index, np.random.default_rng(0))


def batch_of(task, examples, length):
    """Pads examples to a length, as the pipeline does."""
    spec = task.batch_spec(len(examples), length)
    batch = {}
    for name, shape in spec.items():
        batch[name] = np.zeros(shape.shape, shape.dtype)
        for row, one in enumerate(examples):
            array = np.asarray(one[name])
            batch[name][(row, *map(slice, array.shape))] = array
    return jax.tree.map(jnp.asarray, batch | {"mask": np.ones(len(examples), np.float32)})


def test_resolved_config_does_not_need_the_data(task):
    task = dataclasses.replace(task, decoding=Decoding(beam_size=4, language_model="transcripts"))
    resolved = task.resolve()
    assert resolved.tokenizer.vocabulary == " dhilmo"
    assert len(resolved.bucket_seconds) == 2
    assert "\\3-grams:" in resolved.decoding.arpa
    saved = json.loads(json.dumps(to_config_dict(Experiment(task=resolved)).to_dict()))
    again = from_config_dict(Experiment, saved).task
    assert again == resolved
    moved = dataclasses.replace(again, source=Manifest(train="/nowhere"))
    assert moved.resolve() == moved


def test_word_pieces_are_trained_if_bucket_lengths_are_given(task):
    task = dataclasses.replace(task, tokenizer=WordPieces(vocab_size=8), bucket_seconds=(2.0,))
    assert task.resolve().tokenizer.model


def test_example_has_its_tokens_and_lengths(task):
    task = task.resolve()
    one = example(task)
    text = task.dataset("train").corpus.utterances[0].text
    assert task.tokenizer.decode(one["tokens"]) == text
    assert one["length"] == len(one["input"]) and one["token_count"] == len(text)
    spec = task.batch_spec(2, int(one["length"]))
    assert spec["tokens"].shape[1] >= len(text)


def test_utterances_without_alignment_are_excluded_and_never_nan(task):
    """Of three utterances, one has more tokens than frames, and one too few for its repeats."""
    task = task.resolve()
    params, _ = task.init(jax.random.key(0))
    batch = batch_of(task, [example(task)] * 3, len(example(task)["input"]))
    frames = task.network.num_frames(task.features.num_frames(batch["length"][0]))
    capacity = batch["tokens"].shape[1]
    count = batch["token_count"].at[1].set(capacity)
    tokens = batch["tokens"].at[1].set(jnp.arange(capacity) % 2)
    tokens = tokens.at[2].set(1)
    count = count.at[2].set(int(frames) // 2 + 2)
    short = batch["length"].at[1].set(task.features.window_length)
    batch |= {"tokens": tokens, "token_count": count, "length": short}

    def loss(params, batch):
        totals, _ = task.loss(params, {}, batch, jax.random.key(0), train=True)
        return totals["loss"].total, totals

    gradient, totals = jax.jit(jax.grad(loss, has_aux=True))(params, batch)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    assert float(totals["loss"].count) == 1 and float(totals["unalignable"].total) == 2
    alone = batch | {"mask": jnp.array([1.0, 0.0, 0.0])}
    assert float(jax.jit(loss)(params, alone)[0]) == pytest.approx(
        float(totals["loss"].total), rel=1e-5
    )


@pytest.mark.parametrize(
    ("audio", "text", "reason"),
    [
        (synthesize(["lo"]), "low", "'w'"),
        (np.zeros(4000, np.float32), "lo", "silent"),
        (synthesize(["lo"])[:400], "lo hi mid lo hi", "too few"),
        (np.zeros(0, np.float32), "lo", "no samples"),
    ],
)
def test_unusable_utterances_are_skipped_counted_and_named(task, tones, audio, text, reason):
    soundfile.write(tones / "odd.wav", audio, RATE)
    lines = (tones / "test.jsonl").read_text().splitlines()
    lines.insert(3, json.dumps({"audio_filepath": "odd.wav", "text": text, "duration": 0.5}))
    (tones / "odd.jsonl").write_text("\n".join(lines))
    source = dataclasses.replace(task.source, test=str(tones / "odd.jsonl"))
    task = dataclasses.replace(task, source=source).resolve()
    program = Program(Experiment(task=task, batch_size=4, mesh=MeshConfig(devices=1)))
    dataset = task.dataset("test")
    results, _ = evaluate(program, program.initialize().inference, dataset)
    assert results["examples"] == 10 and results["skipped"] == 1
    assert reason in dataset.unusable[3] and f"{tones}/odd.jsonl:4" in dataset.unusable[3]


def test_a_file_that_contains_more_than_its_header_declares_is_named(task):
    task = dataclasses.replace(task, bucket_seconds=(0.2, 9.0)).resolve()
    corpus = Corpus([Utterance("a:1", "lo", 0.1)], lambda _: np.ones(RATE, np.float32))
    dataset = TranscribedUtterances(task, corpus)
    assert dataset.example(0, np.random.default_rng(0)) is None
    expected = "a:1: invalid header: 0.10 s, but the file contains 1.00 s; convert the file"
    assert dataset.unusable[0] == expected


def test_the_longest_utterance_fits_its_bucket(task, tones, tmp_path):
    """A bucket that is rounded down would need another one, and another compilation."""
    lines = []
    for number, samples in enumerate((4001, 7999, 8003, 8003)):  # 8003 samples are 1.000375 s
        soundfile.write(tmp_path / f"{number}.wav", 0.1 * np.ones(samples), RATE)
        lines.append(json.dumps({"audio_filepath": f"{number}.wav", "text": "lo"}))
    (tmp_path / "m.jsonl").write_text("\n".join(lines))
    source = dataclasses.replace(task.source, train=str(tmp_path / "m.jsonl"))
    task = dataclasses.replace(task, source=source).resolve()
    assert task.dataset("train").buckets == task.buckets


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"bucket_seconds": (2.0, 1.0)}, "bucket_seconds"),
        ({"tokens_per_second": 0.0}, "tokens_per_second"),
        ({"num_buckets": 0}, "num_buckets"),
    ],
)
def test_invalid_values_raise(options, key):
    with pytest.raises(ConfigError, match=key):
        SpeechRecognition(**options)


@pytest.mark.slow
def test_the_language_model_is_an_argument_of_the_program_and_no_constant(task):
    """A model of millions of n-grams would make a program of hundreds of megabytes."""
    texts = [" ".join(np.random.default_rng(i).permutation(list("dhilmo"))) for i in range(200)]
    sizes, task = [], task.resolve()
    for count in (4, 200):
        decoding = Decoding(beam_size=4, language_model="transcripts").resolve(texts[:count])
        resolved = dataclasses.replace(task, decoding=decoding)
        mesh = MeshConfig(devices=2)
        program = Program(Experiment(task=resolved, batch_size=2, mesh=mesh))
        state = program.initialize().inference
        batch = batch_of(resolved, [example(resolved), example(resolved, 1)], None)
        lowered = program.predict_step.lower(state, batch)
        sizes.append(len(lowered.as_text()))
    assert sizes[1] - sizes[0] < 200 < len(resolved.tables()["language_model"].log_prob)
    predicted = program.predict_step(state, batch)
    expected = jax.jit(resolved.predict)(state.params, state.variables, batch)
    assert np.array_equal(predicted["tokens"], expected["tokens"])
    assert predicted["token_count"].any()


@pytest.fixture
def experiment(task):
    """Combines augmentation, buckets, a language model and two devices."""
    task = dataclasses.replace(
        task,
        tokenizer=Words(),
        model=dataclasses.replace(task.model, bidirectional=True, features=16),
        augmentation=Augmentation(speed_perturbation=0.05, num_time_masks=1),
        decoding=Decoding(beam_size=4, language_model="transcripts", language_model_weight=0.1),
        num_buckets=1,
    )
    return Experiment(
        task=task,
        duration="2 steps",
        batch_size=20,
        optimizer=Optimizer(learning_rate=1e-2, clip_norm=5.0),
        mesh=MeshConfig(devices=2),
        evaluate_every="0 steps",
    )


def trained(experiment, workdir):
    run, _ = Trainer(experiment, workdir).train()
    dataset = run.program.task.dataset("test")
    return *evaluate(run.program, run.state, dataset), dataset


@pytest.mark.slow
def test_training_and_evaluation_run(experiment, tmp_path):
    results, scorer, dataset = trained(experiment, tmp_path / "run")
    assert {"loss", "unalignable", "wer", "cer", "accuracy"} < set(results)
    assert results["examples"] == 10 and results["loss"] > 0
    assert len(scorer.figures(dataset)) == 3


@pytest.mark.slow
def test_it_learns_the_tones(experiment, tmp_path):
    experiment = dataclasses.replace(experiment, duration="300 steps")
    results, *_ = trained(experiment, tmp_path / "run")
    assert results["wer"] < 0.2
