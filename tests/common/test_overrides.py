import json
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from research.common.config import (
    differences,
    from_config_dict,
    renamed_from,
    to_config_dict,
    widened_from,
)
from research.common.errors import ConfigError, UserError
from research.common.overrides import with_changes
from research.tasks.image_classification.models import CNN, MLP, ResNet


@dataclass(frozen=True)
class Crop:
    padding: int = 4


@dataclass(frozen=True)
class Flip:
    probability: float = 0.5


@dataclass(frozen=True)
class Pretrained:
    path: str
    revision: str
    strict: bool = True


@dataclass(frozen=True)
class Widened:
    step: Crop | Flip = widened_from(Crop)


@dataclass(frozen=True)
class Recipe:
    crop: Crop | None = None
    last: Crop | Flip | None = None
    weights: Pretrained | None = None
    steps: tuple[Crop | Flip, ...] = (Crop(), Flip())
    crops: tuple[Crop, ...] | None = None
    rate: float | None = None
    scale: tuple[float, float] = (1.0, 2.0)
    names: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    level: Literal[1, 2, "all"] = 1
    patch_size: int = renamed_from("patch", default=8)
    enabled: bool = False
    title: str = ""


FULL = Recipe(
    crop=Crop(1),
    last=Flip(0.25),
    weights=Pretrained("a", "b"),
    steps=(Flip(0.1), Crop(2), Flip(0.3)),
    crops=(Crop(3), Crop(5)),
)


@pytest.mark.parametrize("recipe", [Recipe(), FULL])
def test_optional_dataclasses_and_tuples_of_them_survive_json(recipe):
    config = to_config_dict(recipe).to_dict()
    assert from_config_dict(Recipe, config) == recipe
    assert from_config_dict(Recipe, json.loads(json.dumps(config))) == recipe


def test_only_a_field_of_several_classes_has_the_key_type():
    config = to_config_dict(FULL).to_dict()
    assert config["crop"] == {"padding": 1}
    assert config["last"] == {"type": "Flip", "probability": 0.25}
    assert config["steps"][1] == {"type": "Crop", "padding": 2}
    assert config["crops"] == ({"padding": 3}, {"padding": 5})
    assert to_config_dict(Recipe()).to_dict()["crop"] is None


def test_differences_name_the_key_within_a_tuple():
    old, new = (to_config_dict(Recipe(steps=(Crop(), Flip(p)))).to_dict() for p in (0.1, 0.2))
    assert differences(old, new) == ["steps.1.probability: 0.1 -> 0.2"]


def test_an_error_in_a_tuple_names_the_element():
    config = to_config_dict(Recipe()).to_dict()
    config["steps"][1]["probability"] = "often"
    with pytest.raises(ConfigError) as error:
        from_config_dict(Recipe, config)
    expected = "config.steps.1.probability: invalid value 'often': expected float"
    assert str(error.value) == expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (["crop.padding=7"], {"crop": Crop(7)}),
        (["crop.padding=7", "crop=None"], {"crop": Crop(7)}),
        (["last.type=Flip"], {"last": Flip()}),
        (["last.probability=0.1", "last.type=Flip"], {"last": Flip(0.1)}),
        (["last=None", "last.type=Flip"], {"last": Flip()}),
        (["last.type=Flip", "last=None"], {"last": None}),
        (
            ["weights.strict=false", "weights.revision=2", "weights.path=x=y"],
            {"weights": Pretrained("x=y", "2", strict=False)},
        ),
        (["steps.0.padding=9"], {"steps": (Crop(9), Flip())}),
        (["steps.0.type=Flip", "steps.1.probability=0"], {"steps": (Flip(), Flip(0.0))}),
        (["steps=({'type': 'Flip'},)"], {"steps": (Flip(),)}),
        (["crops=[{'padding': 1}, {}]", "crops.1.padding=2"], {"crops": (Crop(1), Crop(2))}),
        (["rate=1"], {"rate": 1.0}),
        (["rate=1e-3", "rate=None"], {"rate": None}),
        (["scale=1,2.5"], {"scale": (1.0, 2.5)}),
        (["scale=(1, 2.5)", "scale.0=3"], {"scale": (3.0, 2.5)}),
        (["names=a.txt,2013"], {"names": ("a.txt", "2013")}),
        (["names=2013"], {"names": ("2013",)}),
        (["names='a,b',"], {"names": ("a,b",)}),
        (["names="], {"names": ()}),
        (
            ["options.momentum=0.9", "options.nesterov=True"],
            {"options": {"momentum": 0.9, "nesterov": True}},
        ),
        (["options={'momentum': 0.9}"], {"options": {"momentum": 0.9}}),
        (["level=2"], {"level": 2}),
        (["level=all"], {"level": "all"}),
        (["enabled=True"], {"enabled": True}),
        (["title=None"], {"title": "None"}),
        (["title=1"], {"title": "1"}),
        (
            ["title=~/data", "names=~/a,b/~/c"],
            {"title": "/home/me/data", "names": ("/home/me/a", "b/~/c")},
        ),
        (["patch_size=16", "patch_size=32"], {"patch_size": 32}),
    ],
)
def test_changes_are_parsed_by_the_declared_types(changes, expected, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")  # of ~, which a shell does not expand after =
    assert with_changes(Recipe(), changes) == Recipe(**expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["patch_sise=3"], "config.patch_sise: unknown key; did you mean 'patch_size'?"),
        (["patch=3"], "config.patch: unknown key; it is now called 'patch_size'"),
        (["crop.paddin=3"], "config.crop.paddin: unknown key; did you mean 'padding'?"),
        (["crop=3"], "config.crop: invalid value 3: expected Crop | None"),
        (["crop.type=Crob"], "config.crop.type: unknown class 'Crob'; did you mean 'Crop'?"),
        (["last.probability=1"], "config.last.type: missing; select one of Crop, Flip"),
        (["last.type=Flop"], "config.last.type: unknown class 'Flop'; did you mean 'Flip'?"),
        (
            ["last=Flip"],
            "config.last: invalid value 'Flip': expected Crop | Flip | None; "
            "select a class by the key 'type'",
        ),
        (
            ["weights.path=x"],
            "config.weights.revision: missing; Pretrained requires path, revision",
        ),
        (["steps.2.padding=1"], "config.steps.2: unknown position; known: 0, 1"),
        (
            ["steps.0.probability=1"],
            "config.steps.0.probability: unknown key of Crop; select Flip by the key 'type'",
        ),
        (["scale=1,2,3"], "config.scale: invalid value '1,2,3': expected tuple[float, float]"),
        (["rate=fast"], "config.rate: invalid value 'fast': expected float | None"),
        (["level=3"], "config.level: invalid value '3': expected 1 | 2 | 'all'"),
        (["enabled=1"], "config.enabled: invalid value '1': expected bool"),
        (["patch_size=1.5"], "config.patch_size: invalid value '1.5': expected int"),
        (["patch_size.x=1"], "config.patch_size.x: unknown key"),
        (["options=3"], "config.options: invalid value 3: expected dict[str, Any]"),
        (["patch_size"], "invalid change 'patch_size': expected KEY=VALUE"),
        (["=3"], "invalid change '=3': expected KEY=VALUE"),
    ],
)
def test_an_invalid_change_is_refused_by_its_key(changes, message):
    with pytest.raises(UserError) as error:
        with_changes(Recipe(), changes)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_a_config_saved_before_its_field_became_a_union_opens():
    """It has no key `type`."""
    saved = to_config_dict(Widened(Crop(2))).to_dict()
    assert saved["step"].pop("type") == "Crop"
    assert from_config_dict(Widened, saved) == Widened(Crop(2))
    assert from_config_dict(Widened, {}) == Widened(Crop())
    assert with_changes(Widened(), ["step.type=Flip"]) == Widened(Flip())


def test_another_union_requires_its_type():
    with pytest.raises(
        ConfigError, match=r"^config\.last\.type: missing; select one of Crop, Flip"
    ):
        from_config_dict(Recipe, {"last": {"padding": 2}})


@pytest.mark.parametrize("reverse", [False, True])
def test_another_class_drops_the_fields_of_the_former_one(with_model, reverse):
    changes = ["task.model.type=ResNet", "task.model.depth=50", "task.model.stem=cifar"]
    changed = with_changes(with_model(CNN(dropout=0.3)), changes[::-1] if reverse else changes)
    assert changed == with_model(ResNet(depth=50, stem="cifar"))


def test_the_same_class_keeps_its_fields(with_model):
    experiment = with_model(CNN(dropout=0.3))
    assert with_changes(experiment, ["task.model.type=CNN"]) == experiment


def test_changes_do_not_modify_the_original(with_model):
    experiment = with_model(MLP(widths=(8,)))
    before = to_config_dict(experiment).to_dict()
    with_changes(experiment, ["optimizer.options.b1=0.5", "task.model.widths.0=3"])
    assert to_config_dict(experiment).to_dict() == before
