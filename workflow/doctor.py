"""``acdc doctor``: check that a site is ready before the first job is submitted."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import logging
import math
import os
import shlex
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import click

from acdc.errors import ConfigError, SuiteError
from study.model import Study
from study.resolve import load, whole_number
from workflow.probe import MINUTES, VISIBLE_S, Facts, look_from, scratch
from workflow.resources import THEORY_MB, THEORY_MINUTES, TRAIN_MB, TRAIN_MINUTES

Status = Literal["ok", "warning", "error"]
COMMANDS = ("sbatch", "squeue", "scancel", "srun", "sinfo", "scontrol")
SLOW_MS = 100.0
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


@dataclass(frozen=True)
class Profile:
    """A Snakemake profile, parsed by Snakemake itself."""

    options: Any
    """Snakemake's command line options (argparse.Namespace)."""
    config: Mapping[str, Any]
    """The workflow's configuration: ``configfile`` and ``config``."""


@dataclass(frozen=True)
class Request:
    """What one kind of job asks SLURM for."""

    rule: str
    threads: int
    resources: Mapping[str, Any]

    @property
    def gpus(self) -> int:
        """GPUs, on all nodes together."""
        return int(self.resources.get("gpu", 0))

    @property
    def name(self) -> str:
        """The rule, with the GPUs if it takes any."""
        return f"{self.rule}, {self.gpus} GPU" if self.gpus else self.rule


@click.command()
@click.option("--scale", help="Scale of the study.  [default: the profile's, else smoke]")
@click.option(
    "--results",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of all results.  [default: the profile's, else results]",
)
@click.option(
    "--profile",
    "profile_name",
    default="slurm",
    show_default=True,
    help="Snakemake profile, a name or a path; none checks this host alone.",
)
@click.option("--node", is_flag=True, help="Check from a compute node, too (one srun step).")
@click.option("--json", "as_json", is_flag=True, help="Print the checks as JSON.")
def doctor(
    scale: str | None, results: Path | None, profile_name: str, node: bool, as_json: bool
) -> None:
    """Check that a site is ready to run a study, one line per check.

    Asks SLURM whether it would accept the jobs (sbatch --test-only) and checks locks, latency, free
    space, data sets and torch. Submits nothing, except one srun step with --node. Exits with status
    1 if a check is an error.
    """
    profile = None if profile_name == "none" else read_profile(profile_name)
    config = profile.config if profile else {}
    if "data" in config:
        os.environ["ACDC_DATA"] = str(Path(str(config["data"])).absolute())
    name = scale or str(config.get("scale", "smoke"))
    study = load(name, config.get("seeds"), config.get("experiments"))
    folder = results or Path(str(config.get("results", "results")))
    colours = {"ok": "green", "warning": "yellow", "error": "red"}
    found = []
    for check in examine(profile, study, folder, node):
        found.append(check)
        if not as_json:
            click.secho(str(check), fg=colours[check.status])
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(check) for check in found], indent=1))
    errors = [check.name for check in found if check.status == "error"]
    if errors:
        raise SuiteError(f"not ready: {', '.join(errors)}")


def examine(profile: Profile | None, study: Study, results: Path, node: bool) -> Iterator[Check]:
    """Yield all checks.

    Args:
        profile: of Snakemake; None checks this host alone.
        study: the study to run.
        results: the folder of all results, which need not exist.
        node: whether to check from a compute node, too.
    """
    requests: list[Request] = []
    if profile is not None and profile.options.executor == "slurm":
        yield from check_options(profile)
        requests = requests_of(profile, study)
        yield from guard("SLURM", lambda: check_slurm(requests, profile.options))
    jobs = profile.options.jobs if profile and requests else os.cpu_count()
    yield from guard("free space", lambda: [check_space(study, results, jobs or 1)])
    yield from guard("results folder", lambda: [check_folder(results)])
    cuda = any(request.gpus for request in requests)
    yield from guard("this host", lambda: check_host(study, results, cuda))
    if node and profile is not None and requests:
        yield from guard("node", lambda: check_node(requests[0], profile.options, study, results))


def guard(name: str, checks: Callable[[], Iterable[Check]]) -> Iterator[Check]:
    """Yield checks; a check that fails itself is an error, never a traceback."""
    try:
        yield from checks()
    except SuiteError as error:
        yield Check(name, "error", str(error))
    except Exception as error:
        yield Check(name, "error", f"the check failed: {type(error).__name__}: {error}")


# The profile


def read_profile(name: str) -> Profile:
    """Return a profile, found and parsed as Snakemake does.

    Raises:
        ConfigError: there is no such profile, a key is unknown or a value is wrong.
    """
    from snakemake.cli import parse_args, parse_config
    from snakemake.common.configfile import load_configfile

    said = io.StringIO()
    config: dict[str, Any] = {}
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            _, options = parse_args(["--profile", name])
        for file in options.configfile or []:
            config |= load_configfile(file)
        config |= parse_config(options.config)
    except (SystemExit, Exception) as error:
        _, marked, reason = said.getvalue().rpartition("error: ")
        raise ConfigError(f"--profile={name}: {reason.strip() if marked else error}") from None
    return Profile(options, config)


def check_options(profile: Profile) -> Iterator[Check]:
    """Yield what jobs rely on to resume and the profile does not set."""
    options, extra = profile.options, str(profile.config.get("slurm_extra") or "")
    triggers = {trigger.name for trigger in options.rerun_triggers}
    # What to set, whether it is set, what happens otherwise.
    wanted = (
        ("retries", options.retries, "a run longer than its job's time limit is not resumed"),
        ("keep-going", options.keep_going, "nothing is submitted once one job has failed"),
        ("nolock", options.nolock, "a controller that was killed leaves a lock behind"),
        ("rerun-incomplete", options.rerun_incomplete, "Snakemake may refuse to start again"),
        ("rerun-triggers", "CODE" not in triggers, "an edited rule trains every run again"),
        ("slurm_extra: --signal=USR1@120", "--signal" in extra, "no checkpoint at the time limit"),
        ("slurm_extra: --open-mode=append", "--open-mode" in extra, "requeued jobs lose their log"),
    )
    missing = [(key, consequence) for key, there, consequence in wanted if not there]
    for key, consequence in missing:
        yield Check("profile", "warning", consequence, f"set {key} as workflow/profiles/slurm does")
    if not missing:
        yield Check("profile", "ok", "all keys are known, jobs resume after an interruption")


def requests_of(profile: Profile, study: Study) -> list[Request]:
    """Return what each kind of job of a study asks for, its first attempt.

    As in Snakemake, ``set-resources`` overrides the rule's own resources, and these override
    ``default-resources``.

    Raises:
        ConfigError: an expression fails.
    """
    from snakemake.resources import Resources

    options, found = profile.options, []
    for rule, example, own in jobs_of(profile.config, study):
        threads = evaluate(options.set_threads.get(rule, 1), rule, example)
        merged = Resources({**(options.default_resources or {})})
        merged.update(own)
        merged.update(options.set_resources.get(rule, {}))
        resources = {
            name: value
            for name, resource in merged.items()
            if (value := evaluate(resource, rule, example, threads=threads)) is not None
        }
        if rule == "theory" and "runtime" in resources:
            # The experiments of one job follow one another.
            together = (options.group_components or {}).get("theory", 1)
            resources["runtime"] *= min(together, len(study.theory))
        found.append(Request(rule, threads, resources))
    return found


def evaluate(resource: Any, rule: str, example: str, **more: Any) -> Any:
    """Return the value of one of Snakemake's resources, or a plain value as it is."""
    from snakemake.resources import Resource

    if not isinstance(resource, Resource):
        return resource
    wildcards = SimpleNamespace(job=example, theory=example)
    known = {"input": SimpleNamespace(size=0, size_mb=0), "attempt": 1, "async_run": None}
    try:
        return resource.evaluate(wildcards, rulename=rule, **known, **more).value
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"set-resources: {rule}: {resource.name}: {reason}") from None


def jobs_of(
    config: Mapping[str, Any], study: Study
) -> Iterator[tuple[str, str, dict[str, int | str]]]:
    """Yield rule, example of its wildcard and the rule's own resources of each kind of job."""
    pack = whole_number(config["pack"], "config: pack") if "pack" in config else None
    per_node = whole_number(config.get("gpus_per_node", 8), "config: gpus_per_node")
    extra = str(config.get("slurm_extra") or "")
    largest: dict[int, tuple[int, str]] = {}
    for job, runs in study.jobs(pack).items():
        gpus = study.gpus[job]
        largest[gpus] = max(largest.get(gpus, (0, "")), (len(runs), job))
    for gpus, (count, job) in sorted(largest.items()):
        nodes = math.ceil(gpus / per_node)
        own: dict[str, int | str] = {"gpu": gpus, "nodes": nodes, "slurm_extra": extra}
        own |= {"mem_mb": TRAIN_MB * (count if pack else 1), "runtime": TRAIN_MINUTES * count}
        if nodes == 1:
            yield "train", job, own
        else:
            extra_on_nodes = f"{extra} --gpus-per-node={gpus // nodes}".strip()
            own |= {"mpi": "srun", "tasks": nodes, "tasks_per_gpu": 0}
            yield "train_on_nodes", job, {**own, "slurm_extra": extra_on_nodes}
    if study.theory:
        yield "theory", next(iter(study.theory)), {"mem_mb": THEORY_MB, "runtime": THEORY_MINUTES}


def sbatch_command(request: Request, options: Any) -> list[str]:
    """Return the command, up to the script, with which the executor plugin submits a job.

    Raises:
        WorkflowError: the plugin refuses the request.
    """
    from snakemake.iocontainers import ResourceList
    from snakemake_executor_plugin_slurm import accounts, submit_string, utils, validation
    from snakemake_interface_executor_plugins.registry import ExecutorPluginRegistry

    resources = ResourceList(fromdict=dict(request.resources))
    job = SimpleNamespace(resources=resources, threads=request.threads)
    validation.validate_slurm_extra(job)
    account, partition = (resources.get(f"slurm_{key}") for key in ("account", "partition"))
    if account:
        accounts.validate_account(str(account), logging.getLogger(__name__))
    params = {
        "run_uuid": "acdc-doctor",
        "slurm_logfile": "/dev/null",
        "comment_str": f"rule_{request.rule}",
        "account": f"-A {shlex.quote(str(account))}" if account else "",
        "partition": f"-p {shlex.quote(str(partition))}" if partition else "",
        "workdir": None,
    }
    settings = ExecutorPluginRegistry().get_plugin("slurm").get_settings(options)
    call = submit_string.get_submit_command(job, params, settings) + utils.set_gres_string(job)
    return shlex.split(call)


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


def check_slurm(requests: Sequence[Request], options: Any) -> Iterator[Check]:
    """Yield whether SLURM answers and would accept each request."""
    missing = [name for name in COMMANDS if shutil.which(name) is None]
    if missing:
        advice = "run this on a login node or load the SLURM module"
        yield Check("SLURM", "error", f"not on the PATH: {', '.join(missing)}", advice)
        return
    answers, said = ask("scontrol", "ping")
    yield Check("SLURM", "ok" if answers else "error", said)
    if answers:
        for request in requests:
            yield check_request(request, options)
            yield from check_partitions(request)


def check_request(request: Request, options: Any) -> Check:
    """Return whether plugin and SLURM would accept a job (``sbatch --test-only``)."""
    advice = f"correct set-resources: {request.rule} in the profile"
    try:
        command = [*sbatch_command(request, options), "--test-only", "--wrap", "true"]
    except Exception as error:
        return Check(request.name, "error", " ".join(str(error).split()), advice)
    accepted, said = ask(*command)
    if accepted:
        return Check(request.name, "ok", said.removeprefix("sbatch: "))
    return Check(request.name, "error", said, f"{advice}; asked with {shlex.join(command)}")


def check_partitions(request: Request) -> Iterator[Check]:
    """Yield what a request's partitions do to a job only once it is submitted."""
    from snakemake_executor_plugin_slurm.utils import parse_time_to_minutes

    for name in str(request.resources.get("slurm_partition", "")).split(","):
        _, said = ask("sinfo", "-h", "-o%l|%M", *(["-p", name] if name else []))
        limit, _, preemption = said.partition("|")
        check, runtime = f"{request.name} on {name}", request.resources.get("runtime", 0)
        hours = limit if limit.count(":") == 2 else f"0:{limit}"  # sinfo may leave them out
        if limit[:1].isdecimal() and runtime > parse_time_to_minutes(hours):
            message = f"runtime={runtime} min exceeds the time limit {limit}: it would never start"
            advice = f"lower runtime of {request.rule}: a run resumes in the next job"
            yield Check(check, "error", message, advice)
        if preemption == "CANCEL":
            message = "Snakemake waits forever for a job that preemption cancels"
            yield Check(check, "error", message, "choose a partition with PreemptMode=REQUEUE")


# Files


def check_folder(results: Path) -> Check:
    """Return whether files can be written, renamed and linked there, and how fast."""
    taken, name = [], "results folder"
    try:
        with scratch(results) as folder:
            for _ in range(20):
                started = time.perf_counter()
                with (folder / "temporary").open("wb") as file:
                    file.write(bytes(4096))
                    os.fsync(file.fileno())
                (folder / "temporary").replace(folder / "file")
                taken.append(1000 * (time.perf_counter() - started))
            (folder / "link").hardlink_to(folder / "file")
    except OSError as error:
        message = f"{results.absolute()}: {error.strerror}"
        return Check(name, "error", message, "choose a writable one with hard links: --results")
    median = statistics.median(taken)
    message = f"{results.absolute()}: {median:.3g} ms to write a file (median of {len(taken)})"
    if median > SLOW_MS:
        return Check(name, "warning", message, "choose a faster file system: --results")
    return Check(name, "ok", message)


def check_space(study: Study, results: Path, jobs: int) -> Check:
    """Return whether there is room for the runs that have no result, ``jobs`` at a time."""
    # Imports torch, which the other checks do without.
    from workflow.cost import checkpoint_bytes, kept_bytes, size

    runs = (results / study.scale.name / "runs").absolute()
    left = [run for name, run in study.runs.items() if not (runs / name / "result.json").exists()]
    extra = sorted(map(checkpoint_bytes, left), reverse=True)
    needed = sum(map(kept_bytes, left)) + sum(extra[:jobs])
    free = shutil.disk_usage(next(path for path in runs.parents if path.exists())).free
    message = f"{size(free)} free, {len(left)} runs need {size(needed)}; quotas are not checked"
    if free < needed:
        return Check("free space", "error", message, "choose another folder: --results")
    return Check("free space", "ok", message)


# Another process, on this host or on a node


def check_host(study: Study, results: Path, cuda: bool) -> Iterator[Check]:
    """Yield what another process on this host sees; ``cuda``: jobs ask for GPUs."""
    facts = look_from([], study.datasets, results)
    yield from (check_locks(facts), check_data(facts), check_torch(facts, cuda))


def check_node(request: Request, options: Any, study: Study, results: Path) -> Iterator[Check]:
    """Yield what a compute node sees, from one srun step with a job's resources."""
    resources = {**request.resources, "runtime": MINUTES}
    words = sbatch_command(dataclasses.replace(request, resources=resources), options)
    output = words.index("--output")
    words = [*words[1:output], *words[output + 2 :], "--nodes=1", "--ntasks=1", "--mpi=none"]
    only_sbatch = ("--parsable", "--requeue", "--no-requeue")
    srun = ["srun", f"--immediate={QUEUE_S}", *(w for w in words if w not in only_sbatch)]
    try:
        facts = look_from(srun, study.datasets, results)
    except SuiteError as error:
        advice = "repeat when a node is free; keep .venv on a file system that nodes share"
        yield Check("node", "error", str(error), advice)
        return
    where = f" on {facts['host']}"
    yield check_latency(facts, options.latency_wait)
    if facts["shared"]:
        yield check_locks(facts, where)
    yield check_data(facts, where)
    gpus = math.ceil(request.gpus / int(resources.get("nodes", 1)))
    yield check_torch(facts, request.gpus > 0, gpus, where)


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
