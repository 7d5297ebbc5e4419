"""Time and memory of planning a study, against the number of its runs.

Each study is dry-run by Snakemake in an empty results folder: configuration, DAG and closing lines.
More runs are more seeds of a scale.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import torch

from benchmarks.common import circumstances, json_option, write_record
from study.resolve import load

ROOT = Path(__file__).resolve().parents[1]


def dry_run(scale: str, seeds: int, folder: Path) -> dict[str, float]:
    """Return seconds, processor seconds and peak memory (bytes) of a dry run."""
    command = [
        *(sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")),
        *("-n", "--quiet", "all"),
        *("--config", f"scale={scale}", f"seeds={seeds}", f"results={folder / 'results'}"),
    ]
    started = time.monotonic()
    process = subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"the dry run of {seeds} seeds at scale {scale} failed")
    return {
        "wall_s": time.monotonic() - started,
        "cpu_s": used.ru_utime + used.ru_stime,
        "peak_bytes": used.ru_maxrss * 1024,
    }


@click.command()
@click.option("--scale", default="paper", show_default=True)
@click.option("--seeds", default="1,3,10,30,95", show_default=True, help="Seeds of the studies.")
@click.option("--rounds", default=3, show_default=True, help="Dry runs of each; the median counts.")
@json_option
def main(scale: str, seeds: str, rounds: int, file: Path | None) -> None:
    """Dry-run studies of more and more runs."""
    rows = []
    for number in map(int, seeds.split(",")):
        runs = len(load(scale, number).runs)
        with tempfile.TemporaryDirectory() as folder:
            found = [dry_run(scale, number, Path(folder)) for _ in range(rounds)]
        median = {key: sorted(each[key] for each in found)[rounds // 2] for key in found[0]}
        rows.append({"seeds": number, "runs": runs, **median})
        click.echo(
            f"{runs:6} runs: {median['cpu_s']:6.1f} s of processor, {median['wall_s']:6.1f} s, "
            f"{median['peak_bytes'] / 2**20:6.0f} MiB"
        )
    about = circumstances(torch.device("cpu"))
    write_record(file, {**about, "scale": scale, "rounds": rounds, "studies": rows})


if __name__ == "__main__":
    main()
