"""Few-shot evaluation: draws, both methods, and what is pretrained over."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from PIL import Image

from research.common.errors import ConfigError, UserError
from research.evaluate import evaluate_run
from research.hardware.mesh import MeshConfig
from research.tasks.image_classification import few_shot as module
from research.tasks.image_classification.data import DigitPhotographs, Digits, ImageFolder
from research.tasks.image_classification.few_shot import FewShot, FewShotScores, draw, few_shot
from research.tasks.image_classification.models import MLP
from research.tasks.image_classification.task import ImageClassification
from research.training.experiment import Experiment
from research.training.loop import Trainer
from research.training.optimizer import Optimizer

CONFIG = FewShot(source=Digits(classes=tuple("56789")), shots=(1, 4), draws=2, steps=40)
TASK = ImageClassification(
    source=Digits(classes=tuple("01234")), model=MLP(widths=(32,)), few_shot=CONFIG
)


def test_a_draw_has_the_same_number_of_each_class_and_depends_on_the_seed():
    labels = np.repeat([0, 1, 2], [5, 6, 7])
    rows = draw(labels, 4, seed=0)
    assert np.bincount(labels[rows]).tolist() == [4, 4, 4] and len(set(rows)) == 12
    assert (draw(labels, 4, seed=0) == rows).all() and (draw(labels, 4, seed=1) != rows).any()


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """A network that knows all ten digits, hence the new ones too."""
    experiment = Experiment(
        task=replace(TASK, source=Digits(), few_shot=None),
        duration="200 steps",
        batch_size=64,
        optimizer=Optimizer(learning_rate=1e-2),
        mesh=MeshConfig(devices=1),
        evaluate_every="0 steps",
        checkpoint_every="0 steps",
    )
    return Trainer(experiment, tmp_path_factory.mktemp("taught")).train()[0].state


@pytest.mark.slow
def test_features_of_a_network_that_knows_the_classes_separate_them(taught):
    task = replace(TASK, few_shot=replace(CONFIG, method="linear_probe"))
    scores = few_shot(task, taught.params, taught.variables, "validation").metrics()
    assert scores["gain_at_1"] > 0.1 and scores["pretrained_at_4"] > scores["pretrained_at_1"] > 0.6


@pytest.mark.slow
def test_fine_tuning_learns_more_from_more_examples():
    task = replace(TASK, few_shot=replace(CONFIG, learning_rate=1e-2))
    params, variables = task.init(jax.random.key(0))
    scores = few_shot(task, params, variables, "validation").metrics()
    assert scores["scratch_at_4"] > scores["scratch_at_1"] > 0.4
    assert scores["pretrained_at_4"] > scores["pretrained_at_1"] > 0.4


@pytest.mark.slow
def test_fine_tuning_trains_on_the_drawn_examples_alone(monkeypatch):
    """Examples are padded to one size, whose padding would be images of label 0."""
    config = replace(CONFIG, shots=(1, 30), draws=1, steps=1, batch_size=512)
    task = replace(TASK, source=config.source, few_shot=None)
    seen = []

    def loss(self, params, variables, batch, key, train):
        jax.debug.callback(lambda y: seen.append(np.bincount(y, minlength=5)), batch["label"])
        return original(self, params, variables, batch, key, train)

    original = ImageClassification.loss
    monkeypatch.setattr(ImageClassification, "loss", loss)
    test = module.load(task.dataset("test"))
    train = task.dataset("train")
    rows = draw(train.arrays["label"], 1, seed=0)
    module.FineTuning(task, config, task.init, train, [[rows]], test)(rows, seed=0)
    jax.effects_barrier()
    assert (abs(seen[0] - 512 / 5) < 40).all()


def test_the_head_is_drawn_anew_and_everything_else_pretrained(monkeypatch):
    starts = []

    class Learner:
        def __init__(self, task, config, start, pool, draws, test):
            starts.append(start(jax.random.key(1)))

        def __call__(self, rows, seed):
            return 0.0

    monkeypatch.setattr(module, "FineTuning", Learner)
    params, variables = TASK.init(jax.random.key(0))
    few_shot(TASK, params, variables, "test")
    (pretrained, _), (scratch, _) = starts
    np.testing.assert_array_equal(pretrained["Dense_0"]["kernel"], params["Dense_0"]["kernel"])
    np.testing.assert_array_equal(pretrained["head"]["kernel"], scratch["head"]["kernel"])
    assert (scratch["Dense_0"]["kernel"] != params["Dense_0"]["kernel"]).any()


def test_scores_are_means_over_draws_of_paired_differences():
    accuracy = {"pretrained": np.array([[0.5, 0.7]]), "scratch": np.array([[0.4, 0.4]])}
    scores = FewShotScores((5,), accuracy)
    assert scores.metrics() == pytest.approx(
        {
            "pretrained_at_5": 0.6,
            "pretrained_std_at_5": np.std([0.1, 0.3], ddof=1),
            "scratch_at_5": 0.4,
            "scratch_std_at_5": 0,
            "gain_at_5": 0.2,
            "gain_std_at_5": np.std([0.1, 0.3], ddof=1),
        }
    )
    (figure,) = scores.figures()
    assert "2 draws" in figure.caption


def test_without_scratch_the_pretrained_network_alone_is_measured(monkeypatch):
    starts = []

    class Learner:
        def __init__(self, task, config, start, *arguments):
            starts.append(start)

        def __call__(self, rows, seed):
            return 0.5

    monkeypatch.setattr(module, "FineTuning", Learner)
    task = replace(TASK, few_shot=replace(CONFIG, scratch=False))
    scores = few_shot(task, *task.init(jax.random.key(0)), "test")
    assert len(starts) == 1 and set(scores.metrics()) == {
        f"pretrained{kind}_at_{shots}" for kind in ("", "_std") for shots in CONFIG.shots
    }
    assert len(scores.figures()) == 1


@pytest.mark.slow
def test_the_evaluation_of_a_run_has_the_gains_and_the_figure(tmp_path):
    quick = replace(CONFIG, shots=(1,), draws=1, steps=1)
    experiment = Experiment(
        task=replace(TASK, few_shot=quick), duration="2 steps", evaluate_every="1 step"
    )
    run, _ = Trainer(experiment, tmp_path).train()
    results = evaluate_run(run, "test")
    assert {"accuracy", "gain_at_1", "gain_std_at_1"} < set(results)
    assert any("few_shot" in path.name for path in (tmp_path / "figures").iterdir())
    # Evaluation during training leaves it out.
    assert "gain_at_1" not in (tmp_path / "metrics.jsonl").read_text()


def test_more_shots_than_images_are_refused():
    task = replace(TASK, few_shot=replace(CONFIG, shots=(500,)))
    with pytest.raises(UserError, match=r"training images, few_shot\.shots asks for 500; lower"):
        few_shot(task, *task.init(jax.random.key(0)), "test")


@pytest.mark.parametrize(
    ("changes", "key"),
    [({"shots": ()}, "shots"), ({"shots": (0, 1)}, "shots"), ({"draws": 0}, "draws")],
)
def test_invalid_numbers_are_refused(changes, key):
    with pytest.raises(ConfigError, match=rf"config\.{key}: invalid value"):
        replace(CONFIG, **changes)


def test_unusable_images_are_not_drawn(tmp_path):
    """The positions of the drawn examples are those in the data set with its unusable images."""
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for name, level in (("dark", 40), ("light", 200)):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for i in range(6):
                pixels = np.full((8, 8), level, np.uint8) + rng.integers(9, size=(8, 8), dtype="u1")
                Image.fromarray(pixels).save(folder / f"{i}.png")
    (tmp_path / "train" / "dark" / "0.png").write_text("no image")
    folder = ImageFolder(str(tmp_path), image_shape=(8, 8, 1), on_corrupt="skip").resolve()
    dataset = folder.open("train")
    labels = module.usable_labels(dataset)
    for seed in range(20):
        drawn = module.load(dataset, draw(labels, 3, seed))
        assert np.bincount(drawn.label).tolist() == [3, 3]
        assert ((drawn.image.mean(axis=(1, 2, 3)) > 100) == drawn.label).all()


def test_images_of_another_shape_are_refused():
    with pytest.raises(ConfigError, match=r"config\.few_shot\.source: invalid images"):
        replace(TASK, source=DigitPhotographs())
