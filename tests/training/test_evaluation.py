import dataclasses

import pytest

from research.data.splits import warn_once
from research.training.evaluation import check_size, evaluate
from research.training.loop import Trainer
from research.training.program import Program
from tests.training.toy_task import Sequences, Toy

HELD_OUT = ("validation", "test")


class Damaged(Sequences):
    """Sequences of which some cannot be read."""

    def example(self, index, rng):
        if index in (0, 7):
            return self.skip(index, "damaged")
        return super().example(index, rng)


@dataclasses.dataclass(frozen=True)
class DamagedToy(Toy):
    def dataset(self, split):
        return Damaged(self.examples, self.buckets, 2)


@pytest.mark.parametrize(("sizes", "too_long"), [((12,), False), ((8,), True)])
def test_unusable_and_too_long_examples_are_counted_as_skipped(toy, sizes, too_long):
    task = DamagedToy(sizes=sizes, examples=21)
    program = Program(dataclasses.replace(toy, task=task))
    dataset = task.dataset("test")
    results, scorer = evaluate(program, program.initialize().inference, dataset)
    fits = dataset.lengths <= sizes[-1]
    assert fits.all() != too_long
    expected = [i for i in range(21) if fits[i] and i not in (0, 7)]
    assert sorted(scorer.indices) == expected
    assert results["examples"] == len(expected)
    assert results["skipped"] == 21 - len(expected)


def test_nothing_is_reported_as_skipped_where_all_examples_are_scored(toy):
    """Padding of the last batch is no skipped example."""
    program = Program(dataclasses.replace(toy, task=Toy(examples=21)))
    dataset = program.task.dataset("test")
    results, _ = evaluate(program, program.initialize().inference, dataset)
    assert results["examples"] == 21 and "skipped" not in results


def test_a_training_warns_once_at_its_start_of_few_held_out_examples(toy, tmp_path, caplog):
    warn_once.cache_clear()
    Trainer(dataclasses.replace(toy, task=Toy(examples=21)), tmp_path)
    remedy = "scores of so few are imprecise; provide a larger {0} split"
    expected = [f"only 21 {split} examples: {remedy.format(split)}" for split in HELD_OUT]
    assert [one.message for one in caplog.records if one.levelname == "WARNING"] == expected


def test_enough_examples_and_the_training_split_give_no_warning():
    for split, count in (("validation", 50), ("train", 4)):
        assert check_size(Toy(examples=count), split, Toy(examples=count).dataset(split)) == []
