"""Exports the parameters of a run as a safetensors file."""

from pathlib import Path

from research.hardware.mesh import on_host
from research.training.initialize import by_path, description
from research.training.run import Run
from research.weights.safetensors import save_safetensors

FILE = "model.safetensors"
_USAGE = f"""\
`{FILE}` contains the parameters and the other variables under their paths in the network, such as
`{{example}}`. Another training starts from them with

```
python -m research.train --config=EXPERIMENT --workdir=WORKDIR \\
    --config.initialize.source=FOLDER/{FILE}
```

and any program reads them with

```python
from safetensors.numpy import load_file

parameters = load_file("{FILE}")
```
"""


def write(folder: Path, run: Run) -> str:
    """Writes parameters and other variables, in their dtypes, by paths as `params/head/kernel`.

    Returns:
      How to use the file, as Markdown.

    Raises:
      UserError: the file cannot be written.
    """
    tree = {"params": run.state.params, **run.state.variables}
    arrays = by_path(on_host(tree))
    save_safetensors(folder / FILE, arrays, description(run.program.task))
    return _USAGE.format(example=next(iter(by_path({"params": run.state.params}))))
