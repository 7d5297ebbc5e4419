"""Which runs a training job has. Importing this takes no torch."""

from __future__ import annotations

from collections.abc import Iterable

from study.model import Study


def training_jobs(
    study: Study, pack: int | None = None, runs: Iterable[str] | None = None
) -> dict[str, tuple[str, ...]]:
    """Return the runs of each training job in the order of training; the first names the job.

    A job has the seeds of one configuration, all of them or ``pack`` at most. Without ``pack``,
    where the scale bundles, it has several configurations of the same model and data set, each with
    the runs that start from it, so that no bundle waits for another. A run on several GPUs has a
    job of its own.

    Args:
        study: at its scale.
        pack: seeds of a configuration that are trained at once; None: one after the other.
        runs: what to train, with the runs that these start from; by default all.
    """
    chosen = set(study.runs if runs is None else runs)
    jobs: list[list[str]] = []
    families: dict[str, list[str]] = {}
    # In the order of the study, in which a configuration comes after the one that it starts from.
    for first in dict.fromkeys(study.seeds_of(run)[0] for run in study.runs):
        names = [name for name in study.seeds_of(first) if name in chosen]
        alone = study.runs[first].gpus > 1
        if names and study.scale.bundle and not pack and not alone:
            origin = study.seeds_of(study.with_parents([first])[0])[0]
            families.setdefault(origin, []).extend(names)
        elif names:
            size = 1 if alone else pack or len(names)
            jobs += [names[start : start + size] for start in range(0, len(names), size)]
    jobs += _bundled(study, families.values())
    return {names[0]: tuple(names) for names in jobs}


def _bundled(study: Study, families: Iterable[list[str]]) -> list[list[str]]:
    """Return families of runs joined in their order, until a job has as many as the scale says.

    Only families of the same model and data set are joined.
    """
    jobs: list[list[str]] = []
    newest: dict[tuple[str, str], list[str]] = {}
    for names in families:
        config = study.runs[names[0]].config
        key = config["model"], config["dataset"]
        if key not in newest or len(newest[key]) >= (study.scale.bundle or 1):
            newest[key] = []
            jobs.append(newest[key])
        newest[key] += names
    return jobs


def possible_jobs(study: Study) -> dict[str, tuple[str, ...]]:
    """Return the jobs that may train each run, by whatever ``pack``, those of fewer runs first."""
    job_of = {run: job for job, runs in training_jobs(study).items() for run in runs}
    found = {}
    for run, job in job_of.items():
        alike = study.seeds_of(run)
        found[run] = (*reversed(alike[: alike.index(run) + 1]), job)
    return found
