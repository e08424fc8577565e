from pathlib import Path

import nbclient
import nbformat
import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(ROOT.glob("notebooks/*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path):
    notebook = nbformat.read(path, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "clear the outputs"
    (parameters,) = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    parameters.source += f'\nWORKDIR = "{tmp_path}"\nDURATION = "2 epochs"'
    nbclient.NotebookClient(notebook, resources={"metadata": {"path": ROOT}}).execute()
    figures = [
        output
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "<main>" in "".join(output.get("data", {}).get("text/html", ""))
    ]
    assert len(figures) == 8
    nbformat.write(notebook, tmp_path / path.name)
