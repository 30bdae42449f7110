"""Kills forget, a claim and fit at random moments: the next run ends with the same bits, and nothing is half-written.

    python benchmarks/fuzz_kills.py --n 200 --minutes 60 --seed 0

A claim builds a world. Each round starts one of the three, kills it up to three times (SIGKILL, SIGTERM or SIGINT, its
whole group or itself alone) at moments drawn over the time that an unbroken run takes, lets it run through, and
compares with that run.
"""

import argparse
import hashlib
import os
import random
import signal
import sys
import tempfile
import time
from contextlib import suppress
from importlib import import_module
from pathlib import Path

import torch

from fuzz_inputs import child, workplace
from palimpsest.cli import main
from palimpsest.evidence import Claim, Store, expect, run_claim
from palimpsest.models import load, word_tokenizer
from palimpsest.seals import broken
from palimpsest.tasks.worlds import trained_lm
from palimpsest.train import fit

SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


def forget(place: Path) -> int:
    files = [
        "--forget",
        str(place / "forget.jsonl"),
        "--retain",
        str(place / "retain.jsonl"),
        "--out",
        str(place / "out"),
    ]
    methods = ["--method", "npo", "--method", "grad_diff", "--steps", "40", "--checkpoint-every", "3", "--lr", "1e-3"]
    return main(["forget", str(place / "model"), *files, *methods])


def arm(seed: int, budget: str) -> dict[str, float]:
    """Trains a small world, from the cache if there is one, and measures its weights."""
    tokenizer = word_tokenizer(["sky is blue"])
    model = trained_lm("kill", tokenizer, [("sky is", "blue")] * 16, seed=seed, d_model=32, n_layers=1, epochs=13)
    return {"weight": float(sum(p.double().abs().sum() for p in model.parameters()))}


def claim(place: Path) -> int:
    measured = Claim("killed", "Is it so?", {"a": arm}, [expect("a").at_least(0, on="weight")], module=__name__)
    outcome = run_claim(measured, workers=1, progress=False)
    if outcome.failures:
        raise RuntimeError(outcome.failures[0].error)
    (place / "values").write_text(repr(sorted(outcome.values["a"]["weight"].items())))
    return 0


def train(place: Path) -> int:
    model, _ = load(place / "model")
    batches = [
        {"input_ids": torch.randint(4, 10, (8, 12), generator=torch.Generator().manual_seed(i))} for i in range(5)
    ]
    options = {"steps": 60, "lr": 1e-3, "checkpoint": place / "run", "checkpoint_every": 4, "log": place / "log.jsonl"}
    fit(model, lambda m, b: m(**b, labels=b["input_ids"]).loss, batches, progress=False, **options)
    (place / "weights").write_text(
        hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in model.parameters())).hexdigest()
    )
    return 0


TARGETS = {"forget": forget, "claim": claim, "fit": train}


def outcome(name: str, place: Path) -> str:
    """What must come out alike: digests of what was written, without what holds times."""
    if name == "forget":
        return (
            str(broken(place / "out")) + hashlib.sha256((place / "out" / "model.safetensors").read_bytes()).hexdigest()
        )
    if name == "claim":
        with Store(place / "home" / "evidence.sqlite") as store:
            store.verify_chain()
        return (place / "values").read_text()
    return (place / "weights").read_text() + (place / "log.jsonl").read_text().count("\n").__str__()


def remains(name: str, place: Path) -> list[str]:
    """What a killed run left that should not outlive the one that ended well."""
    wanted = {"forget": "home/forget/*", "claim": "home/worlds/.*", "fit": "run/.partial"}
    return [str(path.relative_to(place)) for pattern in (wanted[name], ".*") for path in place.glob(pattern)]


def run(name: str, place: Path, wait=None) -> tuple[int | None, str]:
    os.environ["PALIMPSEST_HOME"] = str(place / "home")
    return child(lambda: TARGETS[name](place), wait=wait)


def unbroken(name: str) -> tuple[str, float]:
    with tempfile.TemporaryDirectory() as place:
        workplace(Path(place))
        started = time.monotonic()
        code, said = run(name, Path(place))
        assert code == 0, said
        return outcome(name, Path(place)), time.monotonic() - started


def trial(name: str, expected: str, seconds: float, rng: random.Random) -> tuple[int, str]:
    """How many kills, and what was wrong afterwards; nothing where it is right."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        workplace(place)
        kills, done = [], False
        for _ in range(rng.randint(1, 3)):
            moment, how, group = rng.uniform(0, 1.1 * seconds), rng.choice(SIGNALS), rng.random() < 0.5

            def kill(pid: int, moment=moment, how=how, group=group) -> None:
                time.sleep(moment)
                with suppress(ProcessLookupError):
                    os.killpg(pid, how) if group else os.kill(pid, how)

            code, said = run(name, place, kill)
            kills.append(f"{how.name} after {moment:.2f} s")
            if "Traceback" in said and how is signal.SIGTERM and name == "forget":
                return len(kills), f"{kills}: {said}"
            done = code == 0 and name == "forget"
            if done:
                break
        if not done:
            code, said = run(name, place)
            # Killed when all was done, but for the end of the process: there is nothing to go on from.
            done = name == "forget" and code == 2 and "exists: " in said and (place / "out.html").is_file()
            if code != 0 and not done:
                return len(kills), f"{kills}: exit code {code}: {said[-500:]}"
        found = outcome(name, place)
        if found != expected:
            return len(kills), f"{kills}: {found} instead of {expected}"
        left = remains(name, place)
        return len(kills), f"{kills}: left {left}" if left else ""


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--n", type=int, default=200, help="kills")
    options.add_argument("--minutes", type=float, default=60)
    options.add_argument("--seed", type=int, default=0)
    given = options.parse_args()
    torch.set_num_threads(1)
    import_module("palimpsest.cli.forgetting")
    right = {name: unbroken(name) for name in TARGETS}
    end, kills, rounds, found = time.monotonic() + 60 * given.minutes, 0, 0, 0
    while kills < given.n and time.monotonic() < end:
        rng = random.Random(f"{given.seed} {rounds}")
        name = rng.choice(list(TARGETS))
        n, wrong = trial(name, *right[name], rng)
        kills, rounds, found = kills + n, rounds + 1, found + bool(wrong)
        if wrong:
            print(f"{rounds}: {name}: {wrong}", flush=True)
    print(f"{kills} kills in {rounds} rounds, {found} findings")
    sys.exit(bool(found))
