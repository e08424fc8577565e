"""Durations as text: `"20 epochs"`, `"20_epochs"`, `"100_000 steps"`, `"5%"`."""

import re

from research.common.errors import UserError


def in_steps(text: str, batch_size: float, steps_per_epoch: int, total: int | None = None) -> int:
    """Converts a duration to optimizer steps, rounded; only 0 becomes 0.

    Args:
      text: a number and one of step(s), epoch(s), example(s) or, of the whole run, percent or %;
        spaces or underscores may be between them, as a shell needs no quotes for the latter.
      batch_size: mean number of examples per step.
      steps_per_epoch: steps per pass over the training data.
      total: the length of the run in steps; None does not allow percentages.

    Raises:
      UserError: the text is not a duration.
    """
    number, unit = r"([0-9][0-9_]*\.?[0-9]*)", r"(step|epoch|example|percent|%)s?"
    match = re.fullmatch(rf"{number}[\s_]*{unit}", text.strip().lower())
    units = {"step": 1.0, "epoch": float(steps_per_epoch), "example": 1 / batch_size}
    if total is not None:
        units |= {"percent": total / 100, "%": total / 100}
    if match is None or match[2] not in units:
        known = "'20 epochs' or 20_epochs, 100_000_steps, 500_000_examples"
        known += ", 5%" * (total is not None)
        raise UserError(f"invalid duration '{text}': expected e.g. {known}")
    steps = float(match[1].replace("_", "")) * units[match[2]]
    # A positive duration is at least one step, since 0 disables an interval.
    return max(1, round(steps)) if steps else 0
