"""Which runs a training job has."""

import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from graphlib import TopologicalSorter

import pytest

from study.jobs import possible_jobs, training_jobs
from study.model import Study
from study.resolve import FOLDER, load

SCALES = sorted(path.stem for path in (FOLDER / "scales").glob("*.yaml"))
known = cache(load)


def bundled(study: Study, size: int | None) -> Study:
    return replace(study, scale=replace(study.scale, bundle=size))


def shuffled(study: Study, seed: int) -> Study:
    """Return a study with its runs in another order, each after the one that it starts from."""
    order = random.Random(seed).sample(list(study.runs), len(study.runs))
    return replace(study, runs={run: study.runs[run] for run in study.with_parents(order)})


def waits(study: Study, jobs: dict[str, tuple[str, ...]]) -> dict[str, set[str]]:
    """Return the other jobs with runs from which those of a job start."""
    of = {run: job for job, runs in jobs.items() for run in runs}
    parents = {job: [study.runs[run].parent for run in runs] for job, runs in jobs.items()}
    return {job: {of[run] for run in parents[job] if run} - {job} for job in jobs}


def check(study: Study, pack: int | None, chosen: Iterable[str]) -> None:
    """Assert what holds for the jobs of any study."""
    jobs = training_jobs(study, pack, chosen)
    assert sorted(run for runs in jobs.values() for run in runs) == sorted(chosen)
    waiting = waits(study, jobs)
    tuple(TopologicalSorter(waiting).static_order())  # raises CycleError
    for job, names in jobs.items():
        runs = [study.runs[run] for run in names]
        assert job == names[0]
        assert len({(r.gpus, r.config["model"], r.config["dataset"]) for r in runs}) == 1
        for place, run in enumerate(runs):
            assert run.parent not in names[place:], "a run comes after the one that it starts from"
        if runs[0].gpus > 1:
            assert len(runs) == 1
        elif study.scale.bundle and not pack:
            assert not waiting[job]
        else:
            assert len({str({**run.config, "seed": 0}) for run in runs}) == 1
            assert len(runs) <= (pack or len(study.seeds_of(job)))


@pytest.mark.parametrize("seeds", [None, 1, 2])
@pytest.mark.parametrize("scale", SCALES)
def test_each_run_is_in_one_job_after_its_parent(scale: str, seeds: int | None) -> None:
    study = known(scale, seeds)
    for order in (study, shuffled(study, 1), shuffled(study, 2)):
        check(order, None, study.runs)
        for size in (None, 2, 8, 1000):
            check(bundled(order, size), None, study.runs)
    for pack in (1, 2, 3):
        check(study, pack, study.runs)
    assert len(training_jobs(study, 1)) == len(study.runs)


def test_jobs_of_a_selection_have_its_runs_only() -> None:
    study = known("smoke")
    for method in {run.config["method"] for run in study.runs.values()}:
        for pack in (None, 1, 3):
            check(study, pack, study.select(method=method))


@pytest.mark.parametrize("pack", [None, 1, 2, 3])
def test_the_job_of_a_run_is_one_of_those_possible(pack: int | None) -> None:
    for scale in ("smoke", "laptop", "paper"):
        study = known(scale)
        possible = possible_jobs(study)
        for job, runs in training_jobs(study, pack).items():
            assert all(job in possible[run] for run in runs)


@pytest.mark.parametrize("seeds", [None, 1])
@pytest.mark.parametrize("scale", ["smoke", "quick"])
def test_bundles_are_as_large_as_the_scale_says(scale: str, seeds: int | None) -> None:
    study = known(scale, seeds)
    size, jobs = study.scale.bundle, training_jobs(study)
    assert size is not None
    small = Counter(study.runs[job].config["model"] for job in jobs if len(jobs[job]) < size)
    assert all(count == 1 for count in small.values()), "the rest of each task"
    # Without its last configuration, and the runs that start from it, none would be full.
    for runs in jobs.values():
        last = next(run for run in reversed(runs) if study.runs[run].parent is None)
        assert runs.index(study.seeds_of(last)[0]) < size


def test_scales_of_longer_runs_do_not_bundle() -> None:
    study = known("laptop")
    jobs = training_jobs(study)
    assert all(list(runs) == study.seeds_of(job) for job, runs in jobs.items())
    gpus = known("paper").gpus.values()
    assert min(gpus) == 1 < max(gpus)
