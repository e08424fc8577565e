"""Output to the terminal: text, or JSON lines with --json."""

from __future__ import annotations

import json
import time
from typing import Any

from launch.inventory import Item
from launch.lifecycle import Outcome
from launch.plan import Plan


class Screen:
    """Prints events as text or as JSON lines."""

    def __init__(self, as_json: bool):
        self._json, self._began = as_json, time.monotonic()

    def log(self, event: str, text: str) -> None:
        """Prints one event of a launch; the event `log 3` is a line of worker 3's log."""
        if self._json:
            self.value({"time": time.time(), "event": event, "text": text})
        elif event.startswith("log "):
            print(f"[{event[4:]}] {text}", flush=True)
        else:
            seconds = f"{time.monotonic() - self._began:.0f} s"
            print(f"{seconds:>8}  {event}{text and f': {text}'}", flush=True)

    def value(self, value: Any) -> None:
        """Prints a value as one line of JSON."""
        print(json.dumps(value), flush=True)

    def cost(self, plan: Plan) -> None:
        """Prints the price and the maximum cost of a plan."""
        self.log("cost", format_cost(plan))

    def outcome(self, outcome: Outcome, plan: Plan) -> None:
        """Prints the outcome of a launch and its cost."""
        price = plan.dollars_per_hour
        dollars = None if price is None else round(price * outcome.hours, 2)
        if self._json:
            facts = {"outcome": outcome.kind, "text": outcome.text, "verdict": outcome.verdict}
            self.value({**facts, "hours": outcome.hours, "dollars": dollars})
            return
        verdict = outcome.verdict or {}
        if verdict.get("traceback"):
            print(f"\nworker {verdict['rank']} failed first:\n{verdict['traceback']}")
        about = "" if dollars is None else f", about ${dollars:.2f}"
        self.log(outcome.kind, outcome.text)
        self.log("machines", f"{outcome.hours:.2f} hours{about}")

    def items(self, items: list[Item]) -> None:
        """Prints a table of resources."""
        if self._json:
            keys = ("kind", "name", "zone", "state", "dollars_per_hour")
            self.value([{key: getattr(item, key) for key in keys} for item in items])
            return
        rows = [[i.kind, i.name, i.zone, i.state, _hourly(i.dollars_per_hour)] for i in items]
        widths = [max(map(len, column)) for column in zip(*rows)]
        for row in rows:
            print("  ".join(word.ljust(width) for word, width in zip(row, widths)).rstrip())


def format_cost(plan: Plan) -> str:
    """Formats the price per hour and the maximum cost of a plan."""
    what = f"{plan.slices} x {plan.accelerator}, {plan.chips} chips, {plan.workers} workers"
    price = plan.slice.price(plan.zone, spot=plan.capacity == "spot")
    if price is None or plan.dollars_per_hour is None:
        return f"{what}; unknown price in {plan.zone}; at most {plan.max_hours:g} hours"
    most = plan.dollars_per_hour * plan.max_hours
    return (
        f"{what}; ${plan.dollars_per_hour:.2f} an hour (${price.dollars:.2f} a chip, list price in "
        f"{price.region}, {price.date}), at most ${most:.2f} in {plan.max_hours:g} hours"
    )


def _hourly(dollars: float | None) -> str:
    return "price unknown" if dollars is None else f"${dollars:.2f} an hour" if dollars else ""
