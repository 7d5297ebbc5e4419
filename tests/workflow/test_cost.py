"""``acdc plan``: FLOPs counted by hand, hours by the data sheet or by measured speeds, storage."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from acdc.config.run import RunConfig
from acdc.errors import Resumable
from acdc.files import write_json
from acdc.frozen import fingerprint
from acdc.run.lifecycle import Options, run
from acdc.run.reader import JOURNAL, PROVENANCE
from acdc.run.result import FinishedResult
from study.model import Run
from study.resolve import load
from tests.support import OPTIMIZERS, At, Silent, epoch_line, tiny_config, tiny_text
from tests.workflow.ended import end
from workflow.cost import checkpoint_bytes, kept_bytes
from workflow.plan import plan_command

TOKENS, EPOCHS = 31_370, 2
A100 = 0.19 * 19.5e12
"""Assumed FLOP/s in single precision."""


def flops_per_token(segment: int, memory: int, streams: int) -> int:
    """Count those of two layers of width 64 and inner width 256, for 944 words."""
    square, context = 64 * 64, memory + segment
    queries_and_outputs, keys_and_values = 2 * square, 2 * square * context / segment
    positions, inner = square * context / (segment * streams), 2 * 64 * 256
    layer = queries_and_outputs + keys_and_values + positions + inner + 3 * 64 * context
    return round(2 * (944 * 64 + 2 * layer))


class Place:
    """A scale with a task of text and one table: a dense network and AC/DC at 80 and 90 %."""

    def __init__(self, folder: Path) -> None:
        self.scale, self.experiments = folder / "texts.yaml", folder / "experiments"
        self.results = folder / "results"
        recipe = tiny_text("dense").recipe.model_dump(mode="json")
        model = {"model": "transformer_xl_l2_w64", "dataset": "kjv_tiny", "epochs": EPOCHS}
        scale = {"name": "texts", "title": "Texts", "description": "Texts.", "seeds": [1]}
        task = {"tasks": {"text": {**model, "recipe": recipe}}}
        schedule = {"schedule": None, "phases": [["dense", 0, 1], ["sparse", 1, 2]]}
        table = {"id": "mine", "kind": "table", "title": "Mine", "caption": "Mine."}
        rows = [
            {"label": "Dense", "method": "dense", "sparsities": [0]},
            {"label": "AC/DC", "method": "acdc", "settings": schedule},
        ]
        table |= {"task": "text", "sparsities": [0.8, 0.9], "columns": ["top1"], "rows": rows}
        self.experiments.mkdir()
        self.scale.write_text(yaml.safe_dump(scale | task))
        (self.experiments / "mine.yaml").write_text(yaml.safe_dump(table))

    def plan(self, *options: str) -> str:
        """Return what the command prints."""
        given = {"scale": self.scale, "experiments": self.experiments, "results": self.results}
        words = [word for key, value in given.items() for word in (f"--{key}", str(value))]
        done = CliRunner().invoke(plan_command, [*words, *options])
        assert done.exit_code == 0, done.output
        return done.output

    def data(self, *options: str) -> dict[str, Any]:
        """Return the estimate as data."""
        found: dict[str, Any] = json.loads(self.plan("--json", *options))
        return found

    def finish(self, config: dict[str, Any], seconds: float) -> None:
        """Leave the folder of a run that has been trained on an A100."""
        folder = self.results / "texts" / "runs" / f"x-{fingerprint(config)}"
        end(folder, FinishedResult, config)
        lines = (epoch_line(epoch, train_s=seconds / EPOCHS) for epoch in range(EPOCHS))
        (folder / JOURNAL).write_text("".join(json.dumps(line) + "\n" for line in lines))
        device = "NVIDIA A100-SXM4-80GB"
        write_json(folder / PROVENANCE, {"hardware": {"device": device}})


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_a_text_is_estimated_with_the_recipe_of_its_runs(place: Place) -> None:
    found = place.data("--gpu", "a100")
    flops = 3 * flops_per_token(segment=24, memory=32, streams=64) * TOKENS * EPOCHS
    total = found["total"]["total"]
    assert total["runs"] == 3
    assert total["dense_flops"] == pytest.approx(3 * flops, rel=1e-6)
    assert total["gpu_hours"] == pytest.approx(3 * flops / A100 / 3600, rel=1e-6)
    assert found["total"]["left"] == total
    (line,) = found["lines"]
    assert (line["id"], line["total"], line["adds"]) == ("mine", total, total)
    shown = place.plan("--gpu", "a100")
    assert {"mine", "total", "tokens/s"} <= set(shown.replace(",", " ").split())


def test_measured_speeds_are_those_of_the_same_network_and_step(place: Place) -> None:
    runs = load(str(place.scale), experiments=place.experiments).runs
    config = dict(next(iter(runs.values())).config)
    other = {**config, "recipe": {**config["recipe"], "memory": 8}}
    place.finish(other, seconds=1.0)
    assumed = place.data()["total"]["total"]["gpu_hours"]
    assert assumed == pytest.approx(place.data("--gpu", "a100")["total"]["total"]["gpu_hours"])
    # Whatever the learning rate.
    for lr, seconds in ((0.01, 30.0), (0.03, 60.0), (0.04, 600.0)):
        place.finish({**config, "recipe": {**config["recipe"], "lr": lr}}, seconds)
    for options in ((), ("--gpu", "a100")):
        assert place.data(*options)["total"]["total"]["gpu_hours"] == pytest.approx(3 * 60 / 3600)


SIZES = [
    tiny_text("dense", epochs=1),
    tiny_config("acdc", recipe=OPTIMIZERS["lamb"]),
    tiny_config("snfs"),
]


@pytest.mark.parametrize("config", SIZES, ids=lambda config: config.slug)
def test_storage_is_what_a_run_takes_at_most(config: RunConfig, tmp_path: Path) -> None:
    """Files of a finished run under several names are stored once."""
    planned, step = Run(config.plain()), config.epochs * config.plan.batches_per_epoch - 2
    stop = At(lambda: signal.raise_signal(signal.SIGTERM), steps=[step])
    with pytest.raises(Resumable):
        run(config, Options(tmp_path), stop)
    checkpoint = max(file.stat().st_size for file in tmp_path.glob("*/checkpoint/step-*.pt"))
    assert checkpoint <= checkpoint_bytes(planned) <= 2 * checkpoint
    run(config, Options(tmp_path), Silent())
    kept = sum({file.stat().st_ino: file.stat().st_size for file in tmp_path.rglob("*.*")}.values())
    assert kept <= kept_bytes(planned) <= 2 * kept
