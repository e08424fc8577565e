import numpy as np
import pytest

from research.common.errors import ConfigError
from research.training.loop import Trainer
from research.training.optimizer import Optimizer
from research.training.schedules import SCHEDULES, Schedule


def rates(schedule, **options):
    """Returns the learning rates of 100 steps, 10 of them warm-up, and of the end."""
    defaults = {"total_steps": 100, "warmup_steps": 10, "cooldown_steps": 20}
    optimizer = Optimizer(learning_rate=2.0, schedule=schedule, final_fraction=0.1)
    built = optimizer.resolve_schedule(**defaults | options).build()
    return np.array([built(step) for step in range(101)])


@pytest.mark.parametrize("schedule", sorted(set(SCHEDULES) - {"piecewise_constant"}))
def test_every_schedule_rises_linearly_to_its_peak(schedule):
    np.testing.assert_allclose(rates(schedule)[:11], np.linspace(0, 2, 11), rtol=1e-6)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", {55: 2.0, 100: 2.0}),
        ("linear", {55: 1.1, 100: 0.2}),
        # After a quarter of the decay: 2 - 1.8 * (1 - cos(pi / 4)) / 2.
        ("cosine", {10: 2.0, 32.5: 1.7364, 55: 1.1, 100: 0.2}),
        ("warmup_stable_decay", {11: 2.0, 80: 2.0, 90: 1.1, 100: 0.2}),
        ("inverse_sqrt", {40: 1.0, 90: 2 / 3}),
    ],
)
def test_a_schedule_has_the_published_form(schedule, expected):
    optimizer = Optimizer(learning_rate=2.0, schedule=schedule, final_fraction=0.1)
    built = optimizer.resolve_schedule(100, warmup_steps=10, cooldown_steps=20).build()
    found = {step: float(built(step)) for step in expected}
    assert found == pytest.approx(expected, rel=1e-4)


def test_the_cosine_decreases_at_every_step():
    assert (np.diff(rates("cosine")[10:]) < 0).all()


def test_piecewise_constant_multiplies_at_its_milestones():
    options = {"warmup_steps": 0, "milestones": (30, 60), "gamma": 0.5}
    schedule = Schedule(name="piecewise_constant", peak=2.0, total_steps=100, **options).build()
    found = [float(schedule(step)) for step in (0, 29, 30, 59, 60, 99)]
    assert found == pytest.approx([2, 2, 1, 1, 0.5, 0.5])


def test_milestones_count_from_the_start_and_include_the_warmup():
    options = {"schedule": "piecewise_constant", "milestones": ("30%", "60%"), "gamma": 0.5}
    optimizer = Optimizer(learning_rate=2.0, **options)
    schedule = optimizer.resolve_schedule(100, warmup_steps=10, milestones=(30, 60)).build()
    found = [float(schedule(step)) for step in (5, 10, 29, 30, 59, 60)]
    assert found == pytest.approx([1, 2, 2, 1, 1, 0.5])


def test_a_cooldown_begins_after_the_warmup(tmp_path, replace_optimizer):
    changed = replace_optimizer(
        schedule="warmup_stable_decay", warmup="20 steps", cooldown="50%", learning_rate=1.0
    )
    schedule = Trainer(changed, tmp_path).program.schedule
    assert (schedule.total_steps, schedule.cooldown_steps) == (24, 4)
    assert float(schedule.build()(24)) == 0


def test_the_trainer_resolves_durations(experiment, tmp_path, replace_optimizer):
    changed = replace_optimizer(
        schedule="piecewise_constant", warmup="2 steps", milestones=("25%", "1 epoch")
    )
    schedule = Trainer(changed, tmp_path).program.schedule
    assert (schedule.warmup_steps, schedule.total_steps) == (2, 24)
    assert schedule.milestones == (6, 21)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schedule": "cosin"}, "unknown schedule 'cosin'; did you mean 'cosine'?"),
        ({"milestones": ("1 epoch",)}, 'expected none with "cosine"'),
        ({"schedule": "piecewise_constant"}, "milestones: missing; schedule"),
    ],
)
def test_an_invalid_schedule_is_refused(options, message):
    with pytest.raises(ConfigError, match=r".*") as error:
        Optimizer(**options)
    assert message in str(error.value)


def test_an_invalid_milestone_is_refused(tmp_path, replace_optimizer):
    changed = replace_optimizer(schedule="piecewise_constant", milestones=("soon",))
    with pytest.raises(ConfigError, match="milestones: invalid duration 'soon'"):
        Trainer(changed, tmp_path / "run")
    assert not (tmp_path / "run").exists()
