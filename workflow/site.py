"""What a site's profile asks SLURM for, from Snakemake's own jobs in a dry run."""

from __future__ import annotations

import functools
import json
import logging
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from acdc.errors import ConfigError
from acdc.messages import config_error

REPORT = "ACDC_SITE_REPORT"
"""Environment variable: the file in which a dry run of the target ``requests`` leaves a site."""
SNAKEFILE = Path(__file__).resolve().parents[1] / "Snakefile"

Site = Mapping[str, Any]
"""The study and the folders that a profile names, what jobs rely on to resume and it does not set
(``unset``), and what each kind of job asks SLURM for (``requests``, none without SLURM)."""
Request = Mapping[str, Any]
"""Name, rule, GPUs, nodes, runtime (minutes), partitions and sbatch ``command`` of a kind of job;
in place of the command the ``refusal`` of Snakemake's executor."""


def plan(profile: str, **config: str | Path | None) -> Site:
    """Return a site, planned by Snakemake itself.

    Args:
        profile: its name or path.
        config: what ``--config`` is to say; None is left to the profile.

    Raises:
        ConfigError: there is no such profile, a key is unknown or a value is wrong.
    """
    words = [f"{key}={value}" for key, value in config.items() if value is not None]
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(SNAKEFILE), "requests"]
    command += ["--profile", profile, "--dryrun", "--forceall", "--quiet", "all"]
    with tempfile.NamedTemporaryFile() as file:
        done = subprocess.run(
            command + (["--config", *words] if words else []),
            env={**os.environ, REPORT: file.name, "PYTHONPATH": str(SNAKEFILE.parent)},
            capture_output=True,
            text=True,
        )
        text = file.read()
    if not text:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        told = [line.partition("error: ")[2] for line in lines if "error: " in line]
        raise ConfigError(f"--profile={profile}: {(told or lines or ['no output'])[-1]}")
    site: Site = json.loads(text)
    return site


@functools.cache
def options() -> Any:
    """Return what Snakemake has made of its command line and profiles; None if it has none.

    It keeps nothing of SLURM in a dry run, and the executor is unknown when rules are read.
    """
    from snakemake.cli import parse_args

    try:
        return parse_args(sys.argv[1:])[1]
    except SystemExit:
        return None


def is_local() -> bool:
    """Return whether this Snakemake runs its jobs itself.

    Raises:
        ConfigError: a profile has a configuration beside it which it does not name.
    """
    if options() is None:
        return False
    named = [Path(file).resolve() for file in options().configfile or []]
    for profile in options().profile or []:
        beside = Path(profile, "config.yaml")
        if beside.exists() and beside.resolve() not in named:
            problem = f"the profile {profile} has a {beside.name} that it does not name"
            raise config_error("configfile", None, problem, f"configfile: [{beside}]")
    return options().executor in (None, "local")


def write_site(settings: Mapping[str, Any], jobs: Iterable[Any], path: str, **more: Any) -> None:
    """Write what a dry run knows of a site.

    Args:
        settings: of the workflow.
        jobs: planned in the dry run that SLURM would run.
        path: of the file.
        more: is written, too.
    """
    from snakemake_interface_executor_plugins.registry import ExecutorPluginRegistry

    given = options()
    extra = settings.get("slurm_extra", "")
    wanted = {
        "retries": given.retries,
        "slurm_extra: --signal=USR1@120": "--signal" in extra,
        "slurm_extra: --open-mode=append": "--open-mode" in extra,
    }
    requests: dict[str, Request] = {}
    if given.executor == "slurm":
        executor = ExecutorPluginRegistry().get_plugin("slurm").get_settings(given)
        rules: dict[str, list[Any]] = {}
        for job in jobs:
            rules.setdefault(job.rule.name, []).append(job)
        for alike in rules.values():
            # Jobs of a group follow one another in one job of SLURM.
            together = min((given.group_components or {}).get(alike[0].group, 1), len(alike))
            for job in sorted(alike, key=lambda job: job.resources.get("runtime", 0)):
                found = _request(job, executor, together)
                requests[found["name"]] = found
    site = {
        "slurm": given.executor == "slurm",
        "jobs": given.jobs,
        "latency_wait_s": given.latency_wait,
        "unset": [key for key, there in wanted.items() if not there],
        "requests": list(requests.values()),
    }
    Path(path).write_text(json.dumps(site | more))


def _request(job: Any, executor: Any, together: int) -> Request:
    """Return what a job asks SLURM for, and others of its kind that follow it."""
    from snakemake.iocontainers import ResourceList

    rule, resources = job.rule.name, dict(job.resources.items())
    resources["runtime"] = resources.get("runtime", 0) * together
    stand_in = SimpleNamespace(resources=ResourceList(fromdict=resources), threads=job.threads)
    gpus = resources.get("gpu", 0)
    request = {
        "name": f"{rule}, {gpus} GPU" if gpus else rule,
        "rule": rule,
        "gpus": gpus,
        "nodes": resources.get("nodes", 1),
        "runtime": resources["runtime"],
        "partitions": str(resources.get("slurm_partition", "")),
    }
    try:
        return {**request, "command": _sbatch(stand_in, rule, executor)}
    except Exception as error:
        return {**request, "refusal": " ".join(str(error).split())}


def _sbatch(job: Any, rule: str, executor: Any) -> list[str]:
    """Return the command with which the executor plugin submits a job, without a script."""
    from snakemake_executor_plugin_slurm import accounts, submit_string, utils, validation

    validation.validate_slurm_extra(job)
    account, partition = (job.resources.get(f"slurm_{key}") for key in ("account", "partition"))
    if account:
        accounts.validate_account(str(account), logging.getLogger(__name__))
    params = {
        "run_uuid": "acdc-doctor",
        "slurm_logfile": "/dev/null",
        "comment_str": f"rule_{rule}",
        "account": f"-A {shlex.quote(str(account))}" if account else "",
        "partition": f"-p {shlex.quote(str(partition))}" if partition else "",
        "workdir": None,
    }
    call = submit_string.get_submit_command(job, params, executor)
    return shlex.split(call + utils.set_gres_string(job))
