"""Two processes (gloo) train as one does with the joint batch: the same losses, weights, evaluations and log."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("two_processes.py")


def launch(out, processes):
    out.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = []
    for rank in range(processes):
        environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
        environment |= {"OMP_NUM_THREADS": "1"}
        if processes > 1:
            environment |= {"WORLD_SIZE": str(processes), "RANK": str(rank), "LOCAL_RANK": str(rank)}
            environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        command = [sys.executable, str(SCRIPT), str(out)]
        running.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    for process in running:
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors
    return [json.loads((out / f"{rank}.json").read_text()) for rank in range(processes)]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    (alone,) = launch(folder / "one", 1)
    return folder, alone, launch(folder / "two", 2)


def close(mine, theirs, tolerance):
    for one, other in zip(mine, theirs, strict=True):
        assert one == pytest.approx(other, rel=tolerance, abs=tolerance)


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [("two forwards", 1e-6), ("accumulated", 1e-6), ("unbroken", 1e-6), ("resumed", 1e-6), ("bf16", 2e-3)],
)
def test_two_processes_train_as_one(results, name, tolerance):
    _, alone, (main, other) = results
    assert len(alone[name]["steps"]) == 6
    close(main[name]["steps"], alone[name]["steps"], tolerance)
    assert main[name]["weights"] == pytest.approx(alone[name]["weights"], abs=tolerance)
    assert main[name] == other[name]  # all processes hold the same weights and the same history


def test_evaluations_are_those_of_the_main_process(results):
    _, _, (main, other) = results
    assert [record["step"] for record in main["two forwards"]["evaluations"]] == [0, 2, 4, 6]
    assert all(record["rank"] == 0 for record in other["two forwards"]["evaluations"])


def test_a_broken_run_of_two_processes_goes_on_to_the_same_bits(results):
    for result in results[2]:
        assert result["resumed"]["resumed_from"] == 4
        assert result["resumed"]["weights"] == result["unbroken"]["weights"]
        assert result["resumed"]["steps"] == result["unbroken"]["steps"]


def test_only_the_main_process_writes(results):
    folder, _, (main, _) = results
    lines = [json.loads(line) for line in (folder / "two" / "accumulated.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(7))
    assert [line["loss"] for line in lines[1:]] == [record["loss"] for record in main["accumulated"]["steps"]]


def test_nothing_keeps_the_model_alive(results):
    assert all(result["freed"] for result in results[2])


def test_all_processes_end_with_the_buffers_of_the_main_one(results):
    main, other = results[2]
    assert any(main["running mean"])
    assert main["running mean"] == other["running mean"]


def test_all_processes_stop_with_the_same_error(results):
    for result in results[2]:
        assert result["NaN"].startswith("step 1: loss is nan")
        assert result["odd"].startswith("a batch of 7 rows cannot be shared by 2 processes")
