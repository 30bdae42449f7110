"""Seconds that the commands take which should feel instant, beside an interpreter that does nothing.

    python benchmarks/commands.py [--runs 7] [--demo]

Every command runs in a process of its own, the way a user runs it; the runs of all commands are interleaved, so that
a busy machine slows all of them alike. The minimum is what the command costs; the median is what a user feels.
With --demo, also the demo, `palimpsest run squentropy --seeds 5`, once, from an empty cache.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from statistics import median

CALL = "import sys; from palimpsest.cli import main; sys.exit(main())"
COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "import torch": ["-c", "import torch"],
    "palimpsest --help": ["-c", CALL, "--help"],
    "palimpsest show simnpo": ["-c", CALL, "show", "simnpo"],
    "palimpsest show --help": ["-c", CALL, "show", "--help"],
    "palimpsest search ...": ["-c", CALL, "search", "model forgets old classes"],
}


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--demo", action="store_true")
    args = parser.parse_args()
    runs = args.runs
    for command in COMMANDS.values():
        seconds(command)  # the first run pays for files that are not in memory yet
    times = {name: [] for name in COMMANDS}
    for _ in range(runs):
        for name, command in COMMANDS.items():
            times[name].append(seconds(command))
    floor = min(times["python -c pass"])
    print(f"{'seconds, ' + str(runs) + ' runs':<26}{'min':>8}{'median':>8}{'ratio of minima':>18}")
    for name, taken in times.items():
        print(f"{name:<26}{min(taken):>8.3f}{median(taken):>8.3f}{min(taken) / floor:>17.1f}x")
    if args.demo:
        with tempfile.TemporaryDirectory() as empty:
            os.environ["PALIMPSEST_HOME"] = empty
            print(f"{'the demo':<26}{seconds(['-c', CALL, 'run', 'squentropy', '--seeds', '5']):>8.1f}")


if __name__ == "__main__":
    main()
