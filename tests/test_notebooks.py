"""The notebooks run from start to end, on a run of every task."""

from pathlib import Path

import nbclient
import nbformat
import pytest

from research.training.experiment import load_experiment
from research.training.loop import Trainer
from tests.test_own_data import FEW_STEPS, write_coco, write_images, write_speech, write_tsv

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted(ROOT.glob("notebooks/*.ipynb"))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem),
]


def execute(path, workdir):
    """Runs a notebook for a workdir, and returns the number of its figures."""
    notebook = nbformat.read(path, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "clear the outputs"
    (parameters,) = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    parameters.source += f'\nWORKDIR = "{workdir}"\nDURATION = "2 epochs"'
    nbclient.NotebookClient(notebook, resources={"metadata": {"path": ROOT}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pages = ("".join(output.get("data", {}).get("text/html", "")) for output in outputs)
    return sum("<main>" in page for page in pages)


def test_a_notebook_trains_the_default_experiment(path, tmp_path):
    assert execute(path, tmp_path / "run") == 7


@pytest.mark.parametrize(
    ("experiment", "write"),
    [
        ("image_classification/my_images", write_images),  # an MLP, which has no filters
        ("object_detection/my_boxes", write_coco),
        ("speech_recognition/my_speech", write_speech),
        ("sequence_to_sequence/my_texts", write_tsv),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_notebook_opens_a_run_of_any_task(path, experiment, write, tmp_path):
    flags, *_ = write(tmp_path)
    changes = [flag.removeprefix("--config.") for flag in (*flags, *FEW_STEPS)]
    config = load_experiment(ROOT / "experiments" / f"{experiment}.py", changes)
    Trainer(config, tmp_path / "run").train()
    assert execute(path, tmp_path / "run") > 1
