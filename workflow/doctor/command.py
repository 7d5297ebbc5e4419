"""``acdc doctor``: whether a site can run a study, found out before anything is submitted."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import click
from tabulate import tabulate

from acdc.errors import SuiteError
from study.model import Study, load
from workflow.doctor import environment, node, options, slurm, storage
from workflow.doctor.findings import Finding, guarded
from workflow.doctor.peer import peer
from workflow.doctor.profile import Profile, Request, read_profile


class UnfitError(SuiteError):
    """The site cannot run the study as it is."""


@click.command()
@click.option("--scale", help="Whose study is to run.  [default: the profile's, else smoke]")
@click.option(
    "--results",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of all results.  [default: the profile's, else results]",
)
@click.option(
    "--profile",
    "name",
    default="slurm",
    show_default=True,
    help="Snakemake's profile, by name or path; none: a host without SLURM.",
)
@click.option("--experiments", help="Folder of the experiments, instead of the suite's.")
@click.option("--seeds", type=click.IntRange(1), help="So many for each row, from 1 on.")
@click.option("--node", "nodes", is_flag=True, help="Look from a node of each partition, too.")
@click.option("--json", "as_json", is_flag=True, help="Print plain data.")
def doctor(
    scale: str | None,
    results: Path | None,
    name: str,
    experiments: str | None,
    seeds: int | None,
    nodes: bool,
    as_json: bool,
) -> None:
    """Check a site before anything is submitted, a line for each thing that jobs rely on.

    SLURM and what the profile asks of it, the results folder's file system, latency and locks,
    data sets, tracking server, free space, Python packages. Submits nothing but, with --node, a
    job of a minute for each partition. Ends with status 1 if there is a problem.
    """
    profile = None if name == "none" else read_profile(name)
    given = profile.configuration if profile else {}
    if "data" in given:
        os.environ["ACDC_DATA"] = str(Path(str(given["data"])).absolute())
    study = load(
        scale or str(given.get("scale", "smoke")),
        seeds or given.get("seeds"),
        experiments or given.get("experiments"),
    )
    results = results or Path(str(given.get("results", "results")))
    found = list(examine(profile, study, results, nodes))
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(finding) for finding in found], indent=1))
    else:
        for line in show(found):
            click.echo(line)
    problems = list(dict.fromkeys(each.check for each in found if each.state == "problem"))
    if problems:
        count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
        raise UnfitError(f"{count}: {', '.join(problems)}")


def examine(
    profile: Profile | None, study: Study, results: Path, nodes: bool = False
) -> Iterator[Finding]:
    """Yield all findings.

    Args:
        profile: of Snakemake; None: there is no SLURM.
        study: that is to run.
        results: the folder of all results; it need not be there.
        nodes: whether to look from nodes, too.
    """
    requests: list[Request] = []
    submits = False
    if profile is None:
        yield Finding("SLURM", "not checked", "no profile is asked for")
    elif not profile.slurm:
        executor = profile.options.get("executor", "local")
        yield Finding("SLURM", "not checked", f"{profile.file} has the executor {executor}")
    else:
        requests = profile.requests(study)
        yield from guarded("profile", lambda: options.examine(profile, requests))
        cluster = list(guarded("SLURM", lambda: slurm.examine(profile, requests)))
        yield from cluster
        submits = any(found.check == slurm.CONTROLLER and found.state == "ok" for found in cluster)
    yield from guarded("results folder", lambda: _folder(results, bool(requests)))
    # Without SLURM as many runs at once as there are cores, at most.
    jobs = _count(profile.options.get("jobs")) if profile and requests else os.cpu_count() or 1
    yield from guarded("free space", lambda: storage.space(study, results, jobs))
    yield from guarded("data sets", lambda: environment.data(study, study.missing_data()))
    folder = results / study.scale.name
    yield from guarded("tracking server", lambda: environment.tracking(folder))
    extras = ("suite", "slurm") if requests else ("suite",)
    yield from guarded("Python packages", lambda: environment.packages(extras))
    gpus = any(request.gpus for request in requests)
    yield from guarded("torch", lambda: environment.torch_build(gpus))
    yield from guarded("source", environment.checkout)
    if nodes and profile is not None and submits:
        yield from guarded("nodes", lambda: node.examine(profile, requests, study, results))
    elif nodes:
        yield Finding("nodes", "not checked", "no SLURM answers that would start a job there")


def _folder(results: Path, nodes: bool) -> Iterator[Finding]:
    """Yield what there is to say of the folder of the results on this host."""
    check = "results folder"
    try:
        with storage.scratch(results) as folder:
            yield Finding(check, "ok", f"{results.absolute()} can be written")
            yield from guarded("file system", lambda: storage.kind(folder, nodes))
            yield from guarded("latency", lambda: storage.latency(folder))
            yield from guarded("times of files", lambda: storage.file_clock(folder))
            with peer() as other:
                yield from guarded("locks", lambda: storage.locking(folder / "locks", other))
    except OSError as error:
        yield Finding(
            check,
            "problem",
            f"{results.absolute()}: {error.strerror}",
            "give a folder that you can write to with --results",
        )


def _count(jobs: object) -> int:
    """Return a number of jobs, of which "unlimited" and "all" are some, too, as is none given."""
    return int(jobs) if isinstance(jobs, int | str) and str(jobs).isdecimal() else 1000


def show(found: Iterable[Finding]) -> Iterator[str]:
    """Yield findings as a table, then what to do about those that are not well."""
    found = list(found)
    yield tabulate(
        [[finding.check, finding.state, finding.found] for finding in found],
        headers=["check", "", "found"],
        tablefmt="simple",
        maxcolwidths=[32, None, 76],
        disable_numparse=True,
        break_on_hyphens=False,
    )
    remedies = [f for f in found if f.remedy]
    if remedies:
        yield ""
        for finding in remedies:
            yield f"{finding.check}: {finding.state}: {finding.remedy}"
