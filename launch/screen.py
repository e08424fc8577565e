"""What a person, or with --json a program, is told."""

from __future__ import annotations

import json
import time
from typing import Any

from launch.inventory import Item
from launch.lifecycle import Outcome
from launch.plan import Plan


class Screen:
    """Prints events as they come: lines to read, or JSON lines."""

    def __init__(self, as_json: bool):
        self._json, self._began = as_json, time.monotonic()

    def tell(self, event: str, text: str) -> None:
        """One event of a launch; `log 3` is a line of worker 3's log."""
        if self._json:
            self.value({"time": time.time(), "event": event, "text": text})
        elif event.startswith("log "):
            print(f"[{event[4:]}] {text}", flush=True)
        else:
            seconds = f"{time.monotonic() - self._began:.0f} s"
            print(f"{seconds:>8}  {event}{text and f': {text}'}", flush=True)

    def value(self, value: Any) -> None:
        """One JSON value on a line."""
        print(json.dumps(value), flush=True)

    def cost(self, plan: Plan) -> None:
        """What a plan will cost, before anything does."""
        self.tell("cost", cost_in_words(plan))

    def outcome(self, outcome: Outcome, plan: Plan) -> None:
        """How a launch ended."""
        price = plan.dollars_per_hour
        dollars = None if price is None else round(price * outcome.hours, 2)
        if self._json:
            facts = {"outcome": outcome.kind, "text": outcome.text, "verdict": outcome.verdict}
            self.value({**facts, "hours": outcome.hours, "dollars": dollars})
            return
        verdict = outcome.verdict or {}
        if verdict.get("traceback"):
            print(f"\nworker {verdict['rank']}, the first that failed:\n{verdict['traceback']}")
        about = "" if dollars is None else f", about ${dollars:.2f}"
        self.tell(outcome.kind, outcome.text)
        self.tell("machines", f"{outcome.hours:.2f} hours{about}")

    def items(self, items: list[Item]) -> None:
        """A table of what there is."""
        if self._json:
            keys = ("kind", "name", "zone", "state", "dollars_per_hour")
            self.value([{key: getattr(item, key) for key in keys} for item in items])
            return
        rows = [[i.kind, i.name, i.zone, i.state, _hourly(i.dollars_per_hour)] for i in items]
        widths = [max(map(len, column)) for column in zip(*rows)]
        for row in rows:
            print("  ".join(word.ljust(width) for word, width in zip(row, widths)).rstrip())


def cost_in_words(plan: Plan) -> str:
    """The price per hour, and what the cap allows at most."""
    what = f"{plan.slices} x {plan.accelerator}, {plan.chips} chips, {plan.workers} workers"
    price = plan.slice.price(plan.zone, spot=plan.capacity == "spot")
    if price is None or plan.dollars_per_hour is None:
        return f"{what}; no price is known for {plan.zone}; at most {plan.max_hours:g} hours"
    most = plan.dollars_per_hour * plan.max_hours
    return (
        f"{what}; ${plan.dollars_per_hour:.2f} an hour (${price.dollars:.2f} a chip, list price in "
        f"{price.region}, {price.date}), at most ${most:.2f} in {plan.max_hours:g} hours"
    )


def _hourly(dollars: float | None) -> str:
    return "price unknown" if dollars is None else f"${dollars:.2f} an hour" if dollars else ""
