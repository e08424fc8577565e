from dataclasses import dataclass, field
from typing import Any

from research.common.documentation import entries, field_documentation


@dataclass(frozen=True)
class Crop:
    padding: int = 4
    """Pixels of zeros on each side."""


@dataclass(frozen=True)
class Flip:
    probability: float = 0.5
    """Probability of an image to be
    mirrored."""


@dataclass(frozen=True)
class BigFlip(Flip):
    axis: str = "width"


@dataclass(frozen=True)
class Recipe:
    path: str
    """Folder of the images."""

    crop: Crop = field(default_factory=lambda: Crop(8))
    """Random crop."""

    last: Crop | BigFlip | None = None
    """Last step."""

    steps: tuple[Crop | Flip, ...] = (Crop(1), Flip())
    """Steps in order."""

    options: dict[str, Any] = field(default_factory=dict)
    """Further options."""


def listed(recipe):
    return {entry.key: entry for entry in entries(recipe)}


def test_entries_come_in_the_order_of_the_fields_with_their_types():
    rows = [(entry.key, entry.value, entry.type) for entry in entries(Recipe("a b"))]
    assert rows == [
        ("path", "a b", "str"),
        ("crop", None, "Crop"),
        ("crop.padding", "8", "int"),
        ("last", "None", "Crop | BigFlip | None"),
        ("steps", None, "tuple[Crop | Flip, ...]"),
        ("steps.0.type", "Crop", "Crop | Flip"),
        ("steps.0.padding", "1", "int"),
        ("steps.1.type", "Flip", "Crop | Flip"),
        ("steps.1.probability", "0.5", "float"),
        ("options", "{}", "dict[str, Any]"),
    ]


def test_a_key_is_compared_with_the_default_of_the_field_that_contains_it():
    changed = {key for key, entry in listed(Recipe("a")).items() if not entry.is_default}
    assert changed == {"path"}  # it has no default
    recipe = Recipe("a", crop=Crop(4), last=BigFlip(0.1), steps=(Flip(), Flip(), Crop()))
    changed = {key for key, entry in listed(recipe).items() if not entry.is_default}
    assert changed == {
        *("path", "crop.padding", "last.type", "last.probability"),
        *("steps", "steps.0.type", "steps.2.type"),
    }


def test_entries_have_the_default_of_their_field():
    rows = listed(Recipe("a", crop=Crop(4), last=BigFlip(0.1)))
    assert rows["path"].default is None
    assert [rows[key].default for key in ("crop.padding", "last.type")] == ["8", "None"]
    assert rows["last.probability"].default == "0.5"


def test_documentation_is_the_text_below_the_field_or_below_that_of_a_base():
    assert field_documentation(BigFlip) == {
        "probability": "Probability of an image to be\nmirrored."
    }
    assert listed(Recipe("a"))["steps"].documentation == "Steps in order."
    assert listed(Recipe("a"))["crop.padding"].documentation == "Pixels of zeros on each side."
