"""A plan as text for a terminal."""

from collections.abc import Iterable

from research.hardware.chips import Price
from research.hardware.roofline import Device
from research.hardware.slices import TpuSlice
from research.planning.plan import UNCERTAINTY, Plan, Subject, price_of
from research.reporting.text import duration

_SIGNIFICANT = 0.01  # part of the step below which a limit is not listed


def format_plan(plan: Plan, tpu_slice: TpuSlice, subject: Subject) -> str:
    """Returns the lines that describe a plan."""
    lines = [
        f"{plan.slice}: {tpu_slice.num_chips} x TPU {tpu_slice.chip.generation}",
        *_memory(plan),
    ]
    if plan.fits:
        lines += [*_step(plan, tpu_slice, subject), *_run(plan, tpu_slice, subject)]
        lines += [*_collectives(plan), *_operations(plan)]
    lines += [f"warning: {warning}" for warning in plan.warnings]
    return "\n".join(lines)


def run_seconds(plan: Plan, subject: Subject) -> float | None:
    """Predicted time of all training steps; None if their number is unknown, or if predicting.

    Each batch counts as one of the longest examples.
    """
    if plan.step == "predict":
        return None
    known = subject.examples is not None or "step" in subject.experiment.duration
    return plan.step_seconds * subject.lengths.total if known else None


def run_dollars(seconds: float, tpu_slice: TpuSlice, price: Price) -> float:
    """The list price of a slice for some time."""
    return price.dollars * tpu_slice.num_chips * seconds / 3600


def _memory(plan: Plan) -> list[str]:
    if not plan.fits:
        needed = f"{gib(plan.needed_bytes)} of " if plan.needed_bytes else ""
        return [f"  does not fit: {needed}{gib(plan.hbm_bytes)} per device"]
    parts = ", ".join(f"{name} {gib(size)}" for name, size in plan.memory.items())
    return [f"  fits: {gib(plan.needed_bytes)} of {gib(plan.hbm_bytes)} per device ({parts})"]


def _step(plan: Plan, tpu_slice: TpuSlice, subject: Subject) -> list[str]:
    device, seconds = Device.of(tpu_slice), plan.step_seconds
    intensity = plan.flops / plan.traffic_bytes if plan.traffic_bytes else 0.0
    balance = device.flops_per_second / device.bytes_per_second
    limits = ", ".join(
        f"{limit} {1e3 * part:.2f} ms"
        for limit, part in plan.bound.items()
        if part > _SIGNIFICANT * seconds
    )
    rate = subject.experiment.batch_size / seconds
    return [
        f"  step {1e3 * seconds:.2f} ms +- {100 * UNCERTAINTY:.0f} %, {rate:,.0f} examples/s, "
        f"MFU {100 * plan.mfu(tpu_slice):.1f} %",
        f"  {plan.flops / 1e9:,.1f} GFLOP and {plan.traffic_bytes / 1e9:,.2f} GB per device, "
        f"{intensity:.0f} FLOP/byte (the chip's balance is {balance:.0f})",
        f"  limits: {limits}",
    ]


def _run(plan: Plan, tpu_slice: TpuSlice, subject: Subject) -> list[str]:
    seconds, price = run_seconds(plan, subject), price_of(tpu_slice)
    if plan.step == "predict":
        return []
    if seconds is None:
        return ["  whole run: unknown, without the data; --examples=N gives their number"]
    text = f"  whole run: {subject.lengths.total:,} steps, {duration(seconds)}"
    if price:
        dollars = run_dollars(seconds, tpu_slice, price)
        text += (
            f", ${dollars:,.2f} at ${price.dollars} per chip hour ({price.region}, {price.date})"
        )
    if watts := tpu_slice.chip.watts:
        text += f", {watts * tpu_slice.num_chips * seconds / 3.6e6:,.1f} kWh of the chips"
    return [text + "; input, evaluation and compilation not counted"]


def _collectives(plan: Plan) -> list[str]:
    rows = [
        (
            one["axes"],
            one["opcode"],
            str(one["count"]),
            f"{one['bytes'] / 1e6:.2f} MB",
            f"{1e3 * one['seconds']:.3f} ms",
        )
        for one in plan.collectives
    ]
    return (
        [] if not rows else ["", *columns([("axes", "collective", "count", "size", "time"), *rows])]
    )


def _operations(plan: Plan) -> list[str]:
    rows = [
        (
            f"{1e3 * one['seconds']:.3f} ms",
            f"{100 * one['seconds'] / plan.step_seconds:.1f} %",
            str(one["count"]),
            one["opcode"],
            one["limit"],
            one["source"],
        )
        for one in plan.operations
    ]
    return ["", *columns([("time", "share", "count", "operation", "limit", "source"), *rows])]


def columns(rows: Iterable[tuple[str, ...]]) -> list[str]:
    """Returns rows as lines of aligned columns."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  "
        + "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def gib(size: float) -> str:
    """Formats bytes."""
    return f"{size / 2**30:.2f} GiB" if size >= 2**27 else f"{size / 2**20:.1f} MiB"
