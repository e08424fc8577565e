"""Classes of the user's own in a config: saved, opened again, and refused in one line."""

import json
import os
import sys
from dataclasses import dataclass, field
from typing import Any

import pytest

from research.common.config import from_config_dict, not_configured, to_config_dict
from research.common.documentation import entries
from research.common.errors import ConfigError
from research.common.overrides import with_changes
from research.common.own_classes import load_file

CODE = '''
from dataclasses import dataclass
from typing import Any

from research.common.config import not_configured

@dataclass(frozen=True)
class Blur:
    radius: int = 2
    """Pixels."""
    size: Any = not_configured(0)
'''


@dataclass(frozen=True)
class Crop:
    padding: int = 4
    size: Any = not_configured(0)


@dataclass(frozen=True)
class Flip:
    probability: float = 0.5
    size: Any = not_configured(0)


@dataclass(frozen=True)
class Recipe:
    crop: Crop = field(default_factory=Crop)
    last: Crop | Flip | None = None
    steps: tuple[Crop | Flip, ...] = ()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with `mine.py`, whose modules are forgotten afterwards."""
    (tmp_path / "mine.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    known = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - known:
        del sys.modules[name]


@pytest.mark.parametrize("key", ["crop", "last", "steps"])
def test_a_class_of_ones_own_is_saved_and_opened_by_its_file(folder, key):
    own = load_file(folder / "mine.py").Blur(3)
    recipe = Recipe(**{key: (own,) if key == "steps" else own})
    text = json.dumps(to_config_dict(recipe).to_dict())
    saved = json.loads(text)
    stored = saved[key][0] if key == "steps" else saved[key]
    assert stored == {"type": "mine.py:Blur", "radius": 3}
    assert from_config_dict(Recipe, saved) == recipe
    del sys.modules["mine.py"]  # as in the process of another command
    assert json.dumps(to_config_dict(from_config_dict(Recipe, saved)).to_dict()) == text


def test_a_class_of_ones_own_is_selected_on_the_command_line(folder):
    for name in ("mine.py:Blur", "mine:Blur"):
        changed = with_changes(Recipe(), ["crop.radius=5", f"crop.type={name}"])
        assert type(changed.crop).__name__ == "Blur" and changed.crop.radius == 5
        listed = {entry.key: entry for entry in entries(changed)}
        assert listed["crop.type"].value == name
        assert listed["crop.radius"].documentation == "Pixels."
        assert with_changes(changed, ["crop.type=Crop"]) == Recipe()


def test_files_outside_of_the_working_directory_are_named_in_full(folder):
    (folder / "elsewhere").mkdir()
    os.chdir(folder / "elsewhere")
    recipe = Recipe(crop=load_file(folder / "mine.py").Blur())
    saved = to_config_dict(recipe).to_dict()
    assert saved["crop"]["type"] == f"{folder}/mine.py:Blur"
    assert from_config_dict(Recipe, saved) == recipe


def test_a_file_is_executed_as_it_is_now(folder):
    load_file(folder / "mine.py")
    (folder / "mine.py").write_text(CODE.replace("= 2", "= 7"))  # of the same size and second
    assert load_file(folder / "mine.py").Blur().radius == 7


def test_a_file_that_raises_is_not_remembered(folder):
    (folder / "mine.py").write_text("1 / 0")
    with pytest.raises(ZeroDivisionError):
        load_file(folder / "mine.py")
    assert "mine.py" not in sys.modules


@pytest.mark.parametrize(
    ("name", "code", "message"),
    [
        ("absent.py:Blur", CODE, "missing file absent.py, which defines Blur; restore"),
        ("absent:Blur", CODE, "cannot import absent:Blur: ModuleNotFoundError: No module"),
        ("mine.py:Blurr", CODE, "cannot import mine.py:Blurr: AttributeError"),
        ("mine.py:Blur", "import nothing_like_it", "No module named 'nothing_like_it'; run the"),
        ("mine.py:Blur", "class Blur: pass", "invalid class mine.py:Blur: expected a dataclass"),
        ("mine.py:Any", CODE, "invalid class mine.py:Any: expected a dataclass"),
        (
            "mine.py:Blur",
            CODE.replace("    size: Any = not_configured(0)\n", ""),
            "missing fields of mine.py:Blur that the task sets: add size: Any = not_configured(",
        ),
        (
            "mine.py:Blur",
            f"from __future__ import annotations\n{CODE}",
            "invalid annotation 'int' of mine.py:Blur, radius: it is a text",
        ),
    ],
)
def test_a_class_that_cannot_be_used_is_refused_in_one_line(folder, name, code, message):
    (folder / "mine.py").write_text(code)
    with pytest.raises(ConfigError) as error:
        from_config_dict(Recipe, {"last": {"type": name}})
    assert str(error.value).startswith("config.last.type: ") and message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_class_inside_a_function_is_refused():
    @dataclass(frozen=True)
    class Hidden(Crop):
        pass

    with pytest.raises(ConfigError, match="Hidden: it is defined inside a function"):
        to_config_dict(Recipe(crop=Hidden()))


def test_a_class_of_a_script_or_notebook_is_refused():
    """Other commands could not import it, when the training has ended."""
    namespace = {"__name__": "__main__"}
    exec(CODE, namespace)
    with pytest.raises(ConfigError) as error:
        to_config_dict(Recipe(crop=namespace["Blur"]()))
    assert str(error.value) == (
        "config.type: invalid class Blur: it is defined in a script or notebook; put it into a "
        "file of its own and import it"
    )
