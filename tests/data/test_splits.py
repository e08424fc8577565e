import logging
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from research.common.errors import ConfigError, UserError
from research.data import splits
from research.data.splits import (
    check_duplicates,
    check_fraction,
    fall_back_to_validation,
    find_duplicates,
    hold_out_groups,
    hold_out_last,
    hold_out_random,
    hold_out_stratified,
    missing_split,
)

LABELS = np.repeat([0, 1, 2], [50, 30, 20])
SPEAKERS = [f"speaker {i // 5}" for i in range(100)]
HOLD_OUTS = {
    "random": lambda fraction: hold_out_random(100, fraction),
    "groups": lambda fraction: hold_out_groups(SPEAKERS, fraction),
    "stratified": lambda fraction: hold_out_stratified(LABELS, fraction),
    "last": lambda fraction: hold_out_last(100, fraction),
}


@pytest.mark.parametrize("hold_out", HOLD_OUTS.values(), ids=HOLD_OUTS)
def test_a_hold_out_is_a_fixed_partition(hold_out):
    kept, held_out = hold_out(0.2)
    assert len(held_out) == 20
    assert sorted([*kept, *held_out]) == list(range(100))
    again = hold_out(0.2)
    assert np.array_equal(kept, again.kept) and np.array_equal(held_out, again.held_out)


def test_the_held_out_examples_never_change():
    """Scores of earlier runs refer to these examples."""
    assert hold_out_random(20, 0.2).held_out.tolist() == [2, 4, 6, 19]
    assert hold_out_groups(list("dcbaedcba"), 0.4).held_out.tolist() == [1, 4, 6]
    letters = "zyxwvutsrqponmlkjihgfedcba"  # their order in a set differs between processes
    held_out = hold_out_groups(list(letters), 0.5).held_out
    assert "".join(letters[i] for i in held_out) == "zyxvtqlkigedc"
    assert hold_out_stratified(LABELS[::5], 0.3).held_out.tolist() == [14, 0, 17, 10, 5, 3]


def test_every_class_is_held_out_in_proportion():
    held_out = hold_out_stratified(LABELS, 0.2).held_out
    assert np.bincount(LABELS[held_out]).tolist() == [10, 6, 4]


def test_no_group_is_in_both_splits():
    kept, held_out = hold_out_groups(SPEAKERS, 0.2)
    assert not {SPEAKERS[i] for i in kept} & {SPEAKERS[i] for i in held_out}


def test_the_last_examples_are_held_out():
    assert hold_out_last(10, 0.25).held_out.tolist() == [7, 8, 9]


@pytest.mark.parametrize("hold_out", [HOLD_OUTS["random"], HOLD_OUTS["groups"]])
def test_at_least_one_is_held_out(hold_out):
    assert len(hold_out(1e-6).held_out) > 0


@pytest.mark.parametrize(
    ("hold_out", "message"),
    [
        (lambda: hold_out_random(1, 0.1, "test_fraction"), "test_fraction: cannot hold out 0.1 of"),
        (lambda: hold_out_groups(["a", "a"], 0.1), "of 1 groups: none would remain"),
        (lambda: hold_out_last(2, 0.6), "of 2 examples: none would remain"),
        (lambda: hold_out_stratified(np.array([0, 1]), 0.1), "validation_fraction: cannot hold"),
    ],
)
def test_too_few_examples_are_refused(hold_out, message):
    with pytest.raises(ConfigError, match=message):
        hold_out()


@pytest.mark.parametrize("fraction", [0, 1, -0.1, float("nan")])
def test_a_fraction_outside_0_to_1_is_refused(fraction):
    with pytest.raises(ConfigError, match=r"config\.test_fraction: invalid fraction"):
        check_fraction("test_fraction", fraction)


def test_a_missing_split_is_named():
    assert str(missing_split("test", "add it")) == "config.test: no test split: add it"
    assert str(missing_split("test", "add it", "path")) == "config.path: no test split: add it"


def test_validation_replaces_a_missing_test_split_with_a_warning(caplog):
    assert fall_back_to_validation("test", False, "mine") == "validation"
    assert "no test split: mine has none; the validation split is used instead" in caplog.text
    caplog.clear()
    assert fall_back_to_validation("test", True, "mine") == "test"
    assert fall_back_to_validation("train", False, "mine") == "train"
    assert not caplog.records


@pytest.fixture
def folder(tmp_path):
    """Returns a function that writes files, and gives their names and paths."""

    def write(split, **files):
        (tmp_path / split).mkdir()
        for name, content in files.items():
            (tmp_path / split / name).write_bytes(content)
        return [(f"{split}/{name}", tmp_path / split / name) for name in files]

    return write


def test_equal_texts_and_bytes_are_duplicates():
    train = iter([("train:1", "one"), ("train:2", "two"), ("train:3", b"two")])
    held_out = {"validation": [("v:1", "TWO")], "test": [("t:1", "three"), ("t:2", "two")]}
    assert find_duplicates(train, held_out) == {"validation": [], "test": [("t:2", "train:2")]}


def test_equal_files_are_duplicates_regardless_of_their_names(folder):
    large = np.random.default_rng(0).bytes(100_000)
    changed = large[:50_000] + b"?" + large[50_001:]
    train = folder("train", a=large, b=b"short", c=b"")
    held_out = folder("test", d=changed, e=large, f=b"short", g=b"shorter", h=large + b"?")
    shared = find_duplicates(train, {"test": held_out})
    assert shared == {"test": [("test/e", "train/a"), ("test/f", "train/b")]}


def test_unreadable_files_are_ignored(folder):
    train = folder("train", a=b"one")
    held_out = [("test/missing", Path("missing")), *folder("test", b=b"one")]
    assert find_duplicates(train, {"test": held_out}) == {"test": [("test/b", "train/a")]}


def test_very_many_files_are_not_compared(folder, monkeypatch, caplog):
    monkeypatch.setattr(splits, "MAX_FILES", 1)
    caplog.set_level(logging.INFO)
    train, held_out = folder("train", a=b"one", b=b"two"), folder("test", c=b"one")
    assert find_duplicates(train, {"test": held_out}) == {"test": []}
    assert "2 files are not compared for duplicates" in caplog.text


@dataclass(frozen=True)
class Texts:
    """A source of texts; `opened` counts how often each split was read."""

    train: tuple[str, ...]
    test: tuple[str, ...]
    opened: list[str] = field(default_factory=list, compare=False)

    def contents(self, split):
        self.opened.append(split)
        if split == "validation":
            raise UserError("no validation split")
        return [(f"{split}:{i}", text) for i, text in enumerate(getattr(self, split), 1)]


def test_duplicates_are_counted_and_named_once(caplog):
    source = Texts(tuple("abcdefgh"), ("x", *"hgfedc"))
    for _ in range(2):
        check_duplicates(source, ("test",))
    (record,) = caplog.records
    assert record.getMessage() == (
        "6 test examples are in the training split too: test:2 = train:8, test:3 = train:7, "
        "test:4 = train:6, test:5 = train:5, test:6 = train:4, ...; remove the duplicates"
    )
    assert source.opened == ["test", "train"]


def test_splits_without_duplicates_give_no_warning(caplog):
    check_duplicates(Texts(("a", "b"), ("c", "d")), ("test",))
    assert not caplog.records


def test_a_split_that_cannot_be_opened_is_not_compared():
    check_duplicates(Texts(("a",), ("a",)))
