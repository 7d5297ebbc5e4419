"""``acdc doctor``: check that a site is ready before the first job is submitted."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import click

from acdc.errors import SuiteError
from study.model import Study
from study.resolve import load
from workflow.probe import MINUTES, VISIBLE_S, Facts, look_from, scratch
from workflow.site import Request, Site, plan

Status = Literal["ok", "warning", "error"]
COMMANDS = ("sbatch", "squeue", "scancel", "srun", "sinfo", "scontrol")
SKEW_S = 2.0
QUEUE_S = 60


@dataclass(frozen=True)
class Check:
    """One line of the report."""

    name: str
    status: Status
    message: str
    advice: str = ""

    def __str__(self) -> str:
        advice = f"; {self.advice}" if self.advice else ""
        return f"{self.status:8} {self.name}: {self.message}{advice}"


@click.command()
@click.option("--scale", help="Scale of the study.  [default: the profile's, else smoke]")
@click.option(
    "--results",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of all results.  [default: the profile's, else results]",
)
@click.option(
    "--profile",
    default="slurm",
    show_default=True,
    help="Snakemake profile, a name or a path; none checks this host alone.",
)
@click.option("--node", is_flag=True, help="Check from a compute node, too (one srun step).")
@click.option("--json", "as_json", is_flag=True, help="Print the checks as JSON.")
def doctor(
    scale: str | None, results: Path | None, profile: str, node: bool, as_json: bool
) -> None:
    """Check that a site is ready to run a study, one line per check.

    Asks SLURM whether it would accept the jobs (sbatch --test-only) and checks locks, latency, free
    space, data sets and torch. Submits nothing, except one srun step with --node. Exits with status
    1 if a check is an error.
    """
    site = None if profile == "none" else plan(profile, scale=scale, results=results)
    if site is not None and site["data"]:
        os.environ["ACDC_DATA"] = site["data"]
    study = load(scale or "smoke") if site is None else load(*site["study"])
    folder = Path(site["results"]) if site else results or Path("results")
    colours = {"ok": "green", "warning": "yellow", "error": "red"}
    found = []
    for check in examine(site, study, folder, node):
        found.append(check)
        if not as_json:
            click.secho(str(check), fg=colours[check.status])
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(check) for check in found], indent=1))
    errors = [check.name for check in found if check.status == "error"]
    if errors:
        raise SuiteError(f"not ready: {', '.join(errors)}")


def examine(site: Site | None, study: Study, results: Path, node: bool) -> Iterator[Check]:
    """Yield all checks.

    Args:
        site: with its profile; None checks this host alone.
        study: the study to run.
        results: the folder of all results, which need not exist.
        node: whether to check from a compute node, too.
    """
    requests = site["requests"] if site else []
    if site is not None and site["slurm"]:
        yield check_profile(site)
        yield from guard("SLURM", lambda: check_slurm(requests))
    jobs = site["jobs"] if site else os.cpu_count()
    yield from guard("free space", lambda: [check_space(study, results, jobs or 1)])
    yield from guard("results folder", lambda: [check_folder(results)])
    cuda = any(request["gpus"] for request in requests)
    yield from guard("this host", lambda: check_host(study, results, cuda))
    if node and site is not None and requests:
        yield from guard("node", lambda: check_node(requests[0], site, study, results))


def guard(name: str, checks: Callable[[], Iterable[Check]]) -> Iterator[Check]:
    """Yield checks; a check that fails itself is an error, never a traceback."""
    try:
        yield from checks()
    except SuiteError as error:
        yield Check(name, "error", str(error))
    except Exception as error:
        yield Check(name, "error", f"the check failed: {type(error).__name__}: {error}")


def check_profile(site: Site) -> Check:
    """Return whether a profile sets what jobs rely on to resume."""
    if site["unset"]:
        advice = f"set {', '.join(site['unset'])} as workflow/profiles/slurm does"
        return Check("profile", "warning", "jobs may not resume after an interruption", advice)
    return Check("profile", "ok", "all keys are known, jobs resume after an interruption")


# SLURM


def ask(*command: str) -> tuple[bool, str]:
    """Return whether a command succeeds, and the last line that it prints."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=30,
        )
    except subprocess.TimeoutExpired:
        return False, f"{command[0]} does not answer"
    return done.returncode == 0, done.stdout.strip().rpartition("\n")[2].strip()


def check_slurm(requests: Sequence[Request]) -> Iterator[Check]:
    """Yield whether SLURM answers and would accept each request."""
    missing = [name for name in COMMANDS if shutil.which(name) is None]
    if missing:
        advice = "run this on a login node or load the SLURM module"
        yield Check("SLURM", "error", f"not on the PATH: {', '.join(missing)}", advice)
        return
    answers, said = ask("scontrol", "ping")
    yield Check("SLURM", "ok" if answers else "error", said)
    for request in requests if answers else ():
        yield check_request(request)
        yield from check_partitions(request)


def check_request(request: Request) -> Check:
    """Return whether plugin and SLURM would accept a job (``sbatch --test-only``)."""
    advice = f"correct set-resources: {request['rule']} in the profile"
    if "refusal" in request:
        return Check(request["name"], "error", request["refusal"], advice)
    accepted, said = ask(*request["command"], "--test-only", "--wrap", "true")
    if accepted:
        return Check(request["name"], "ok", said.removeprefix("sbatch: "))
    return Check(
        request["name"], "error", said, f"{advice}; asked with {shlex.join(request['command'])}"
    )


def check_partitions(request: Request) -> Iterator[Check]:
    """Yield what a request's partitions do to a job only once it is submitted."""
    from snakemake_executor_plugin_slurm.utils import parse_time_to_minutes

    for name in request["partitions"].split(","):
        _, said = ask("sinfo", "-h", "-o%l|%M", *(["-p", name] if name else []))
        limit, _, preemption = said.partition("|")
        check = f"{request['name']} on {name}"
        hours = limit if limit.count(":") == 2 else f"0:{limit}"  # sinfo may leave them out
        if limit[:1].isdecimal() and request["runtime"] > parse_time_to_minutes(hours):
            message = f"runtime={request['runtime']} min exceeds the time limit {limit}"
            advice = f"lower runtime of {request['rule']}: a run resumes in the next job"
            yield Check(check, "error", f"{message}: it would never start", advice)
        if preemption == "CANCEL":
            message = "Snakemake waits forever for a job that preemption cancels"
            yield Check(check, "error", message, "choose a partition with PreemptMode=REQUEUE")


# Files


def check_folder(results: Path) -> Check:
    """Return whether files can be written, renamed and linked there."""
    try:
        with scratch(results) as folder:
            (folder / "temporary").touch()
            (folder / "temporary").replace(folder / "file")
            (folder / "link").hardlink_to(folder / "file")
    except OSError as error:
        message = f"{results.absolute()}: {error.strerror}"
        advice = "choose a writable one with hard links: --results"
        return Check("results folder", "error", message, advice)
    return Check("results folder", "ok", str(results.absolute()))


def check_space(study: Study, results: Path, jobs: int) -> Check:
    """Return whether there is room for the runs that have no result, ``jobs`` at a time."""
    # Imports torch, which the other checks do without.
    from reports.text import quantity
    from workflow.cost import checkpoint_bytes, kept_bytes

    runs = (results / study.scale.name / "runs").absolute()
    left = [run for name, run in study.runs.items() if not (runs / name / "result.json").exists()]
    extra = sorted(map(checkpoint_bytes, left), reverse=True)
    needed = sum(map(kept_bytes, left)) + sum(extra[:jobs])
    free = shutil.disk_usage(next(path for path in runs.parents if path.exists())).free
    room = f"{quantity(free, 'B')} free, {len(left)} runs need {quantity(needed, 'B')}"
    message = f"{room}; quotas are not checked"
    if free < needed:
        return Check("free space", "error", message, "choose another folder: --results")
    return Check("free space", "ok", message)


# Another process, on this host or on a node


def check_host(study: Study, results: Path, cuda: bool) -> Iterator[Check]:
    """Yield what another process on this host sees; ``cuda``: jobs ask for GPUs."""
    facts = look_from([], study.datasets, results)
    yield from (check_locks(facts), check_data(facts), check_torch(facts, cuda))


def check_node(request: Request, site: Site, study: Study, results: Path) -> Iterator[Check]:
    """Yield what a compute node sees, from one srun step with a job's resources."""
    words = list(request["command"])
    output = words.index("--output")
    words = [*words[1:output], *words[output + 2 :], "--nodes=1", "--ntasks=1", "--mpi=none"]
    only_sbatch = ("--parsable", "--requeue", "--no-requeue")
    srun = ["srun", f"--immediate={QUEUE_S}", *(w for w in words if w not in only_sbatch)]
    try:
        facts = look_from([*srun, f"--time={MINUTES}"], study.datasets, results)
    except SuiteError as error:
        advice = "repeat when a node is free; keep .venv on a file system that nodes share"
        yield Check("node", "error", str(error), advice)
        return
    where = f" on {facts['host']}"
    yield check_latency(facts, site["latency_wait_s"])
    if facts["shared"]:
        yield check_locks(facts, where)
    yield check_data(facts, where)
    yield check_torch(
        facts, request["gpus"] > 0, math.ceil(request["gpus"] / request["nodes"]), where
    )


def check_latency(facts: Facts, latency_wait_s: float) -> Check:
    """Return whether files are seen in time and clocks agree between this host and a node."""
    name = f"latency to {facts['host']}"
    if not facts["shared"]:
        return Check(name, "error", "the results folder is not there", "choose a shared one")
    seconds = facts["round_trip_s"]
    if not facts["seen"]:
        advice = "mount the folder with lookupcache=positive (NFS) or choose another"
        return Check(name, "error", f"a new file is not seen within {VISIBLE_S:g} s", advice)
    message = f"a file is seen there, another one back, in {seconds:.2f} s"
    if seconds > latency_wait_s:
        return Check(name, "error", message, f"set latency-wait to {math.ceil(seconds) + 1}")
    if not -SKEW_S <= facts["skew_s"] <= seconds + SKEW_S:
        message = f"clocks differ by {abs(facts['skew_s']):.1f} s"
        return Check(
            name, "warning", message, "synchronize them: Snakemake compares times of files"
        )
    return Check(name, "ok", message)


def check_locks(facts: Facts, where: str = "") -> Check:
    """Return whether what is held here was refused to the other process."""
    name = f"locks{where}"
    if facts["leased"]:
        advice = "mount the folder with attributes cached for less than a minute (NFS: actimeo=30)"
        return Check(name, "error", "two processes can hold the lease of one run", advice)
    if facts["locked"]:
        advice = "mount the folder with flock, or start controllers and acdc sync on one host only"
        status: Status = "warning" if where else "error"
        return Check(name, status, "two processes can hold one file lock", advice)
    return Check(name, "ok", "leases and file locks are exclusive")


def check_data(facts: Facts, where: str = "") -> Check:
    """Return whether the data sets are there, judged by the names of their files."""
    if facts["missing"]:
        return Check(f"data sets{where}", "error", "; ".join(facts["missing"].values()))
    return Check(f"data sets{where}", "ok", "all present; acdc data check verifies them")


def check_torch(facts: Facts, cuda: bool, gpus: int = 0, where: str = "") -> Check:
    """Return whether torch is built for GPUs, if ``cuda``, and sees at least ``gpus``."""
    built, name = facts["cuda"], f"torch{where}"
    message = f"{facts['torch']} built for {f'GPUs ({built})' if built else 'CPUs'}"
    message += f", {facts['gpus']} GPUs seen"
    if cuda and not built:
        advice = "reinstall it for the nodes' driver: make clean .venv/suite TORCH=cu128"
        return Check(name, "error", message, advice)
    if facts["gpus"] < gpus:
        return Check(name, "error", f"{message}, {gpus} requested", "compare with nvidia-smi there")
    return Check(name, "ok", message)
