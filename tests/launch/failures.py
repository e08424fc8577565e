"""One of several processes fails, in every way: is it named, and are all gone soon?

python -m tests.launch.failures --trials=32 [--plain] [--processes=4] [--ways=kill,abort]
"""

import argparse
import io
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from launch.local_slice import ROOT, Slice, cpu_environment, follow, summary
from tests.launch.failing import SIGNS, WAYS

STALL_SECONDS = 3


class Trial(NamedTuple):
    """What came of a failure."""

    way: str
    guilty: int
    named: bool  # the guilty worker, and the cause in words that only it can have said
    seconds: float  # from the failure to the last process's end
    words: str


def trial(way, guilty, folder, processes=4, step=5, plain=False):
    """Lets process `guilty` fail at a step."""
    module = f"tests.launch.{'plain' if plain else 'jax'}_training"
    told = folder / "failed_at"
    training = Slice(
        folder / "slice",
        processes,
        ["-m", module, way, str(guilty), str(step), str(told)],
        cpu_environment(1) | {"PYTHONPATH": str(ROOT)},
        stall_seconds=STALL_SECONDS,
        directory=str(ROOT),
    )
    verdict = follow(training, io.StringIO())
    failed_at = float(told.read_text())
    while alive(folder) and time.time() < failed_at + 60:
        time.sleep(0.05)
    seconds = time.time() - failed_at
    words = summary(verdict)
    is_said = re.search(SIGNS[way], f"{verdict['cause']}\n{verdict['traceback']}")
    named = verdict["rank"] == guilty and is_said is not None
    return Trial(way, guilty, named, seconds, words)


def alive(folder):
    """The processes whose environment or command names the folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            told = (process / "environ").read_bytes() + (process / "cmdline").read_bytes()
            state = (process / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if str(folder).encode() in told and state != "Z":
            found.append(int(process.name))
    return found


def main():
    """Prints a line for each trial and a table of all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=len(WAYS))
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--plain", action="store_true", help="without JAX")
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--words", action="store_true", help="show the verdicts")
    options = parser.parse_args()
    rng, ways, trials = np.random.default_rng(options.seed), options.ways.split(","), []
    for number in range(options.trials):
        way, guilty = ways[number % len(ways)], int(rng.integers(options.processes))
        step = int(rng.integers(2, 30))
        with tempfile.TemporaryDirectory() as folder:
            done = trial(way, guilty, Path(folder), options.processes, step, options.plain)
        trials.append(done)
        said = "named" if done.named else "NOT NAMED"
        print(f"{way:24} process {guilty}  {said}  {done.seconds:5.1f} s", flush=True)
        if options.words or not done.named:
            print(done.words, flush=True)
    print("\n| way | trials | guilty and cause named | seconds, at most |\n|---|---|---|---|")
    for way in ways:
        of_way = [done for done in trials if done.way == way]
        if of_way:
            longest = max(done.seconds for done in of_way)
            print(f"| {way} | {len(of_way)} | {sum(d.named for d in of_way)} | {longest:.1f} |")
    sys.exit(not all(done.named and done.seconds <= 15 for done in trials))


if __name__ == "__main__":
    main()
