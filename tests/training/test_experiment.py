import sys

import pytest

from research.common.errors import ConfigError, UserError
from research.training.experiment import Experiment, load_experiment


@pytest.mark.parametrize(
    ("bucket", "shards", "expected"),
    [
        (12, 1, 24),  # 25 examples of 12, in multiples of 8
        (12, 3, 24),
        (20, 3, 24),  # the smallest batch that 3 devices can split, longer than `batch_length`
        (20, 1, 8),
        ((12, 8), 1, 8),
        (3, 1, 64),  # at most `batch_size`
        (None, 1, 64),
    ],
)
def test_a_batch_has_the_examples_that_fit_its_length_and_the_devices(bucket, shards, expected):
    experiment = Experiment(task=None, batch_size=64, batch_length=300)
    assert experiment.examples_per_batch(bucket, shards) == expected


def test_every_part_of_an_accumulated_batch_is_split_over_the_devices():
    experiment = Experiment(
        task=None, batch_size=96, batch_length=600, gradient_accumulation_steps=2
    )
    assert experiment.examples_per_batch(12, 1) == 48
    assert experiment.examples_per_batch(12, 3) == 48


def test_the_batch_length_must_hold_the_smallest_batch():
    longest = (12, 12)  # eight examples are 192 long
    Experiment(task=None, batch_length=192).check_batch_length(longest, shards=1)
    with pytest.raises(ConfigError, match=r"batch_length: .* at least 192"):
        Experiment(task=None, batch_length=191).check_batch_length(longest, shards=1)


def test_an_experiment_imports_modules_from_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "shared_part.py").write_text("VALUE = 3")
    for name, module in (("right", "folder.shared_part"), ("wrong", "shared_part")):
        (tmp_path / "folder" / f"{name}.py").write_text(f"from {module} import VALUE")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(UserError, match=r"right\.py does not define get_config"):
        load_experiment(tmp_path / "folder" / "right.py")
    with pytest.raises(UserError) as error:
        load_experiment(tmp_path / "folder" / "wrong.py")
    expected = f"cannot run {tmp_path}/folder/wrong.py:1: ModuleNotFoundError: No module named"
    assert str(error.value).startswith(expected)
