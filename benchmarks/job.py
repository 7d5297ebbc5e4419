"""The overhead of a training job: what its process takes beside training.

    python -m benchmarks.job [--rounds 5] [--device cpu] [--json FILE]

Real ``acdc train`` processes of two epochs take turns with processes that only import torch.
*Start* lasts until the first batch; *steps* is the training itself; *between* is validation,
journal and checkpoints; *end* is what follows the last epoch's line: test, certificate, files and
leaving.
"""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import click
import torch

from benchmarks.common import circumstances, json_option, median_ratio, report

EPOCHS = 2
# The recipe of workflow/scales/smoke.yaml.
SMOKE = {
    "model": "resnet8_s4",
    "dataset": "fashion_mnist_4k",
    "recipe": {
        "lr": 0.2,
        "momentum": 0.9,
        "weight_decay": 2.0e-3,
        "batch_size": 128,
        "augmentation": "shift",
    },
}
RUNS: dict[str, dict[str, Any]] = {
    "digits": {"model": "resnet8_s2", "dataset": "digits", "method": "dense", "epochs": EPOCHS},
    "fashion_mnist_4k": SMOKE | {"method": "dense", "epochs": EPOCHS},
}
IMPORT = "import torch"
BEGUN = re.compile(r": epochs \d+ to \d+$")
LAST = re.compile(rf"^epoch +{EPOCHS - 1} ")


def command(description: dict[str, Any], runs: Path, device: str, threads: int) -> list[str]:
    """Write the description into the folder of runs, and return the command that trains it."""
    config = runs / "config.yaml"
    config.write_text(json.dumps(description), encoding="utf-8")
    return [
        *(sys.executable, "-m", "acdc", "train", str(config)),
        *("--runs", str(runs), "--device", device, "--threads", str(threads)),
    ]


def time_process(arguments: list[str]) -> dict[str, float]:
    """Return the seconds until each relevant line on standard error, and until the end."""
    start = time.perf_counter()
    process = subprocess.Popen(
        arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    moments: dict[str, float] = {}
    said = []
    for line in process.stderr:
        now = time.perf_counter() - start
        said.append(line)
        if BEGUN.search(line.rstrip()):
            moments["begun"] = now
        elif LAST.search(line):
            moments["trained"] = now
    if process.wait() != 0:
        raise click.ClickException(f"{' '.join(arguments)} failed:\n{''.join(said)}")
    return moments | {"all": time.perf_counter() - start}


def time_job(description: dict[str, Any], device: str, threads: int) -> dict[str, float]:
    """Return the seconds of each part of a job, and of all."""
    with tempfile.TemporaryDirectory() as place:
        moments = time_process(command(description, Path(place), device, threads))
        (path,) = Path(place).glob("*/result.json")
        steps = json.loads(path.read_text(encoding="utf-8"))["timings"]["train_s"]
    begun, trained = moments["begun"], moments["trained"]
    return {
        "start": begun,
        "steps": steps,
        "between": trained - begun - steps,
        "end": moments["all"] - trained,
        "all": moments["all"],
    }


def measure_jobs(rounds: int, device: str, threads: int) -> list[dict[str, Any]]:
    """Return one row for each run; a first round fills the file system's cache and is left out."""
    imports: list[float] = []
    jobs: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in RUNS}
    for number in range(rounds + 1):
        imported = time_process([sys.executable, "-c", IMPORT])["all"]
        found = {name: time_job(run, device, threads) for name, run in RUNS.items()}
        if number == 0:
            continue
        imports.append(imported)
        for name, parts in found.items():
            for part, seconds in parts.items():
                jobs[name][part].append(seconds)
            jobs[name]["beside"].append(parts["all"] - parts["steps"])
    rows: list[dict[str, Any]] = [{"job": IMPORT, "all": statistics.median(imports)}]
    for name, measured in jobs.items():
        medians = {part: statistics.median(times) for part, times in measured.items()}
        ratios = {
            "start_to_import": median_ratio(measured["start"], imports),
            "beside_to_import": median_ratio(measured["beside"], imports),
        }
        rows.append({"job": name} | medians | ratios)
    return rows


@click.command()
@click.option("--rounds", default=5, show_default=True)
@click.option("--threads", default=1, show_default=True, help="CPU threads of a job.")
@click.option("--device", default="cpu", show_default=True)
@json_option
def main(rounds: int, threads: int, device: str, file: Path | None) -> None:
    """Measure what jobs take beside training."""
    around = circumstances(torch.device(device)) | {"threads": threads}
    rows = measure_jobs(rounds, device, threads)
    columns = "job start:.2f steps:.2f between:.2f end:.2f all:.2f beside:.2f"
    report(rows, f"{columns} start_to_import:.2f beside_to_import:.2f", file, **around)


if __name__ == "__main__":
    main()
