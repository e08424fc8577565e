"""Exports the prediction of a task as a StableHLO program that runs without the project."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from jax import export

from research.common.files import write_atomically
from research.common.progress import activity
from research.hardware.mesh import on_host
from research.hardware.target import compile_for_any_platform
from research.reporting.table import markdown_table
from research.task import Batch, Task, Tree
from research.training.run import Run

FILE = "model.stablehlo"
PLATFORMS = ("cpu", "cuda", "tpu")
_USAGE = """\
`{file}` is the prediction with its parameters: a StableHLO program, serialised by JAX {version}. It
runs on {platforms}, takes batches of any size, and needs only `pip install jax flatbuffers`:

```python
import numpy as np
from jax import export

with open("{file}", "rb") as file:
    predict = export.deserialize(file.read()).call

batch = {{
{arrays}
}}
for name, array in predict(batch).items():
    print(name, array.dtype, array.shape)
```

Examples with lengths are padded with zeros at their end, to the largest bucket.

{inputs}

Documentation of a batch, with its targets, which the program does not take:

> {input_documentation}

{outputs}

Documentation of the outputs:

> {output_documentation}
"""


def write(folder: Path, run: Run) -> str:
    """Writes the prediction of a run as a program.

    Returns:
      How to use the file, as Markdown.

    Raises:
      UserError: the file cannot be written.
    """
    program = run.program
    params, variables = on_host((run.state.params, run.state.variables))
    with activity("exporting the prediction"):
        exported = export_predict(program.task, params, variables, program.batch_shape())
    write_atomically(folder / FILE, bytes(exported.serialize()))
    inputs, outputs = inputs_and_outputs(exported)
    arrays = [
        f'    "{name}": np.zeros({(2, *array.shape[1:])}, "{array.dtype}"),'
        for name, array in inputs.items()
    ]
    return _USAGE.format(
        file=FILE,
        version=jax.__version__,
        platforms=", ".join(PLATFORMS),
        arrays="\n".join(arrays),
        inputs=_table("input", inputs),
        outputs=_table("output", outputs),
        input_documentation=_quoted(program.task.batch_spec),
        output_documentation=_quoted(program.task.predict),
    )


def export_predict(
    task: Task, params: Tree, variables: Tree, batch: Mapping[str, jax.ShapeDtypeStruct]
) -> export.Exported:
    """Exports `task.predict` with its parameters, for batches of any size, on `PLATFORMS`.

    Args:
      task: the task, resolved.
      params: parameters, NumPy arrays; they become constants of the program.
      variables: other variables, likewise.
      batch: shapes and dtypes of a batch. Its first axis may have any size, the others are fixed in
        the program.

    Returns:
      The program. Its only argument are the arrays of the batch that `predict` reads, by name; its
      result is that of `predict`.
    """
    (size,) = export.symbolic_shape("batch")
    with compile_for_any_platform():
        inputs = {
            name: jax.ShapeDtypeStruct((size, *batch[name].shape[1:]), batch[name].dtype)
            for name in _inputs(task, params, variables, batch)
        }
        predict = jax.jit(lambda arrays: task.predict(params, variables, arrays))
        return export.export(predict, platforms=PLATFORMS)(inputs)


def inputs_and_outputs(exported: export.Exported) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the abstract arrays that a program takes and returns, by name."""
    (inputs,), _ = jax.tree.unflatten(exported.in_tree, exported.in_avals)
    return inputs, jax.tree.unflatten(exported.out_tree, exported.out_avals)


def _inputs(
    task: Task, params: Tree, variables: Tree, batch: Mapping[str, jax.ShapeDtypeStruct]
) -> list[str]:
    """Returns the names of the arrays that `predict` reads; all others are targets."""

    def predict(arrays: Batch, params: Tree, variables: Tree) -> Batch:
        return task.predict(params, variables, arrays)

    # JAX removes arguments that the program does not use, if no size is symbolic.
    kept = export.export(jax.jit(predict))(dict(batch), params, variables).module_kept_var_idx
    return [name for index, name in enumerate(sorted(batch)) if index in kept]


def _table(title: str, arrays: Mapping[str, Any]) -> str:
    rows = [
        (f"`{name}`", array.dtype, f"[{', '.join(map(str, array.shape))}]")
        for name, array in arrays.items()
    ]
    return markdown_table((title, "dtype", "shape"), rows)


def _quoted(method: Any) -> str:
    """Returns the documentation of a task's method as a quotation in Markdown."""
    return (inspect.getdoc(method) or "").replace("\n", "\n> ")
