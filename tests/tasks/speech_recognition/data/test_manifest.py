import dataclasses
import json

import numpy as np
import pytest
import soundfile

from research.common.errors import ConfigError, UserError
from research.data.splits import warn_once
from research.tasks.speech_recognition.data import Manifest, read_input
from research.tasks.speech_recognition.features import LogMel, PrecomputedFeatures
from tests.tasks.speech_recognition.conftest import RATE, synthesize

AUDIO = LogMel(sample_rate=RATE, num_mel_bins=20)


def test_paths_are_relative_to_the_manifest(tones):
    corpus = Manifest(train=str(tones / "train.jsonl")).open("train", AUDIO)
    first = corpus.utterances[0]
    assert first.origin == f"{tones}/train.jsonl:1"
    audio = corpus.read(0)
    assert audio.dtype == np.float32
    assert first.seconds == pytest.approx(len(audio) / RATE)
    np.testing.assert_allclose(audio, synthesize(first.text.split()), atol=1e-4)


def test_validation_and_training_have_disjoint_speakers(tones):
    source = Manifest(train=str(tones / "train.jsonl"), validation_fraction=0.4)
    train, validation = (source.open(split, AUDIO) for split in ("train", "validation"))
    speakers = [{one.speaker for one in part.utterances} for part in (train, validation)]
    assert len(speakers[0]) == 3 and len(speakers[1]) == 2 and not speakers[0] & speakers[1]
    assert len(train.utterances) + len(validation.utterances) == 40
    assert source.open("test", AUDIO).utterances == validation.utterances


def test_utterances_of_a_single_speaker_are_held_out(tones):
    lines = [json.loads(line) for line in (tones / "train.jsonl").read_text().splitlines()]
    alone = "\n".join(json.dumps(line | {"speaker": "ann"}) for line in lines)
    (tones / "alone.jsonl").write_text(alone)
    source = Manifest(train=str(tones / "alone.jsonl"))
    counts = [len(source.open(split, AUDIO).utterances) for split in ("train", "validation")]
    assert counts == [36, 4]


def test_invalid_lines_are_named_and_others_are_read(tones):
    lines = [
        '{"audio_filepath": "train0.wav", "text": "lo"}',
        "not JSON",
        "[1]",
        '{"text": "lo"}',
        '{"audio_filepath": "train0.wav"}',
        '{"audio_filepath": "missing.wav", "text": "lo"}',
    ]
    (tones / "bad.jsonl").write_text("\n".join(lines))
    utterances = Manifest(train="-", test=str(tones / "bad.jsonl")).open("test", AUDIO).utterances
    assert [one.origin.rpartition(":")[2] for one in utterances] == list("123456")
    assert not utterances[0].problem
    for one, part in zip(
        utterances[1:], ("JSON", "JSON", "filepath", "text", "missing.wav"), strict=True
    ):
        assert part in one.problem


def test_precomputed_features_are_read(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((30, 13)))
    line = {"features_filepath": "a.npy", "text": "yes"}
    (tmp_path / "m.jsonl").write_text(json.dumps(line))
    corpus = Manifest(train="-", test=str(tmp_path / "m.jsonl")).open(
        "test", PrecomputedFeatures(size=13)
    )
    assert corpus.utterances[0].seconds == pytest.approx(0.3)
    assert corpus.read(0).shape == (30, 13) and corpus.read(0).dtype == np.float32
    for array, message in ((np.ones((30, 12)), "12"), (np.full((3, 13), np.nan), "NaN")):
        np.save(tmp_path / "b.npy", array)
        with pytest.raises(UserError, match=message):
            read_input(tmp_path / "b.npy", PrecomputedFeatures(size=13))


def test_validation_replaces_a_missing_test_manifest_with_a_warning(tones, caplog):
    warn_once.cache_clear()  # other tests use the same file
    train = str(tones / "train.jsonl")
    source = Manifest(train=train)
    assert source.open("test", AUDIO).utterances == source.open("validation", AUDIO).utterances
    assert f"no test split: {train} has none" in caplog.text


def test_recordings_in_two_splits_are_reported(tones, caplog):
    lines = [f'{{"audio_filepath": "train{i}.wav", "text": "lo"}}' for i in (3, 5)]
    (tones / "copies.jsonl").write_text("\n".join(lines))
    train, test = str(tones / "train.jsonl"), str(tones / "copies.jsonl")
    Manifest(train=train, validation=train, test=test).open("train", AUDIO)
    assert f"2 test examples are in the training split too: {test}:1 = {train}:4" in caplog.text


def rounded(folder, decimals, **changed):
    """Copies the training manifest with rounded durations; `changed` has those of some lines."""
    lines = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    for number, line in enumerate(lines):
        seconds = soundfile.info(folder / line["audio_filepath"]).duration
        line["duration"] = changed.get(f"line{number}", round(seconds, decimals))
    path = folder / f"rounded_{decimals}_{len(changed)}.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    return str(path)


@pytest.mark.parametrize("decimals", [0, 1, 2])
def test_rounded_durations_lose_no_utterance(tones, task, decimals, caplog):
    path = rounded(tones, decimals)
    source = Manifest(train=path, test=path)
    task = dataclasses.replace(task, source=source, num_buckets=4).resolve()
    for split in ("train", "test"):
        dataset = task.dataset(split)
        examples = [dataset.example(i, None) for i in range(len(dataset))]
        assert all(examples) and not dataset.unusable
    assert "durations" not in caplog.text


def test_a_wrong_duration_makes_no_bucket(tones, task):
    path = rounded(tones, 1, line2=99.0)
    task = dataclasses.replace(task, source=Manifest(train=path, validation=path)).resolve()
    assert max(task.bucket_seconds) == pytest.approx(1.4)


def test_wrong_durations_are_counted_in_one_line(tones, caplog):
    path = rounded(tones, 1, line2=99.0, line5=12)
    for _ in range(2):
        Manifest(train="-", test=path).open("test", AUDIO)
    (warning,) = caplog.messages
    assert warning.startswith(f"2 of 40 durations in {path} differ by more than 0.5 s")
    assert f"{path}:3 has 99.00 s instead of" in warning


def test_parts_of_recordings_are_refused(tones):
    """NeMo's `offset`; the whole file would be trained on with the transcript of a part."""
    line = {"audio_filepath": "train0.wav", "text": "lo", "offset": 0.2, "duration": 0.1}
    (tones / "parts.jsonl").write_text(json.dumps(line) + "\n" + json.dumps(line | {"offset": 0}))
    part, whole = (
        Manifest(train="-", test=str(tones / "parts.jsonl")).open("test", AUDIO).utterances
    )
    assert "unsupported key 'offset'" in part.problem and not whole.problem


def read_manifest(folder, lines):
    """Returns the utterances of a manifest with these objects, one of them per line."""
    path = folder / "manifest.jsonl"
    path.write_text("\n".join(json.dumps(line, ensure_ascii=False) for line in lines))
    return Manifest(train="-", test=str(path)).open("test", AUDIO).utterances


def test_an_optional_value_that_is_invalid_loses_no_utterance(tones, caplog):
    warn_once.cache_clear()
    values = [{"duration": value} for value in (None, "1,5", [], "0.5 s", "", "nan")]
    values += [{"speaker": None}, {"duration": None, "speaker": 0, "offset": None}]
    line = {"audio_filepath": "train0.wav", "text": "lo"}
    utterances = read_manifest(tones, [line | value for value in values])
    assert [one.problem for one in utterances] == [""] * 8
    assert len({one.seconds for one in utterances}) == 1 and utterances[0].seconds > 0
    assert [one.speaker for one in utterances] == [""] * 7 + ["0"]
    (warning,) = caplog.messages
    assert warning.startswith(f"5 of 8 durations in {tones}/manifest.jsonl are not numbers")
    assert f"e.g. {tones}/manifest.jsonl:2" in warning


@pytest.mark.parametrize("text", [None, ["lo"], {}])
def test_a_transcript_that_is_no_text_is_refused(tones, text):
    line = {"audio_filepath": "train0.wav", "text": "5"}
    first, second, third = read_manifest(tones, [line, line | {"text": 5}, line | {"text": text}])
    assert (first.text, second.text, second.problem) == ("5", "5", "")
    assert "invalid line" in third.problem


def test_the_line_of_a_manifest_ends_at_a_newline_only(tones):
    texts = ["lo\u2028hi", "lo\x85hi", "lo hi"]
    path = tones / "manifest.jsonl"
    read_manifest(tones, [{"audio_filepath": "train0.wav", "text": text} for text in texts])
    path.write_text(f"\ufeff{path.read_text()}\n \n".replace("\n", "\r\n"), newline="")
    utterances = Manifest(train="-", test=str(path)).open("test", AUDIO).utterances
    assert [(one.text, one.problem) for one in utterances] == [(text, "") for text in texts]
    assert utterances[-1].origin == f"{path}:3"


@pytest.mark.parametrize("content", [None, b"\xff"])
def test_a_manifest_that_cannot_be_read_is_refused(tmp_path, content):
    path = tmp_path / "manifest.jsonl"
    if content:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"config\.test: .*manifest\.jsonl"):
        Manifest(train="-", test=str(path)).open("test", AUDIO)
