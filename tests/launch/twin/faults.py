"""What goes wrong in the twin, and how long everything takes."""

import random
from collections import Counter
from collections.abc import Iterable, Mapping

# How likely each fault of a random schedule strikes at each opportunity. What has few
# opportunities is likely; what may strike at any command strikes at one out of some dozens.
CHANCES = {
    "quota": 0.7,  # a creation is refused for quota
    "stock-out": 0.7,  # no capacity: refused, or a long wait in the queue
    "failed request": 0.7,  # a queued request ends in FAILED
    "half node": 0.7,  # READY, but one worker never answers
    "preemption": 0.7,  # of a node, at any moment of its life
    "termination": 0.7,  # a preempted node says TERMINATED
    "repair": 0.7,  # a slice of several that is lost is replaced; the request stays ACTIVE
    "maintenance": 0.7,  # one machine reboots, at any moment
    "slow deletion": 0.7,
    "ssh once": 0.1,  # the connection breaks before the command
    "ssh minute": 0.1,  # a worker is unreachable for a minute
    "ssh forever": 0.05,
    "lost reply": 0.05,  # the command was carried out, and gcloud reports an error
    "unavailable": 0.05,  # 503, and nothing was carried out
    "crash": 0.3,  # the training ends by itself, with a traceback
}

# Seconds, drawn evenly between two bounds.
DELAYS = {
    "latency": (0.5, 2.0),  # of a gcloud command
    "ssh": (1.0, 3.0),  # to connect
    "ssh timeout": (50.0, 100.0),  # gcloud's ten tries
    "queue": (5.0, 120.0),  # WAITING_FOR_RESOURCES
    "stock-out": (300.0, 1500.0),
    "creation": (30.0, 120.0),  # PROVISIONING or CREATING
    "boot": (5.0, 40.0),  # from READY until the startup script runs
    "preemption": (0.0, 600.0),  # from the creation until it strikes
    "maintenance": (0.0, 900.0),
    "suspension": (10.0, 90.0),
    "repair": (60.0, 300.0),
    "deletion": (10.0, 90.0),
    "slow deletion": (300.0, 900.0),
    "install": (30.0, 90.0),
    "first step": (10.0, 60.0),
    "stop": (1.0, 20.0),  # a training that saves before it ends
    "crash": (0.0, 300.0),  # from the first step
}


class Faults:
    """A schedule of faults.

    Args:
      kinds: the faults that strike, each once for each time it is named.
      seed: of the moments; None: each strikes at its first opportunity.
      delays: seconds, a number or two bounds, in place of those of `DELAYS`.
    """

    def __init__(
        self,
        kinds: Iterable[str] = (),
        seed: int | None = None,
        delays: Mapping[str, float | tuple[float, float]] | None = None,
    ):
        self.kinds, self.seed = tuple(kinds), seed
        if unknown := set(self.kinds) - set(CHANCES) | set(delays or {}) - set(DELAYS):
            raise ValueError(f"there are no faults or delays {unknown}")
        self.random = random.Random(seed or 0)
        self.struck: list[str] = []
        self._left = Counter(self.kinds)
        self._delays = DELAYS | {
            name: seconds if isinstance(seconds, tuple) else (seconds, seconds)
            for name, seconds in (delays or {}).items()
        }

    @classmethod
    def drawn(cls, seed: int, most: int = 6) -> "Faults":
        """A random schedule of at most so many faults."""
        source = random.Random(seed)
        return cls(source.choices(list(CHANCES), k=source.randint(0, most)), seed)

    def happens(self, kind: str) -> bool:
        """Whether the fault strikes at this opportunity."""
        if not self._left[kind]:
            return False
        if self.seed is not None and self.random.random() > CHANCES[kind]:
            return False
        self._left[kind] -= 1
        self.struck.append(kind)
        return True

    def delay(self, kind: str) -> float:
        """How long it takes this time, in seconds."""
        least, most = self._delays[kind]
        return least + (most - least) * self.random.random()

    def __repr__(self) -> str:
        return f"Faults({list(self.kinds)}, seed={self.seed})"
