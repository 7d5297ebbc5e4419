"""What SLURM has for a profile: commands, controller, accounting, partitions and settings."""

from __future__ import annotations

import getpass
import os
import re
import shutil
from collections.abc import Iterator, Sequence

from workflow.doctor.findings import Finding, UnansweredError, ask, guarded
from workflow.doctor.fit import judge
from workflow.doctor.profile import Profile, Request
from workflow.doctor.site import Site

NEEDED = ("sbatch", "squeue", "scancel", "srun", "sinfo", "scontrol")
CONTROLLER = "SLURM controller"
# Of snakemake-executor-plugin-slurm 2.8: below the first it turns from squeue to sacct, by default
# three times its first interval; the second is the longest that it lets pass between two looks.
_LOOKS, _LONGEST_LOOK_S = 3, 180


def examine(profile: Profile, requests: Sequence[Request]) -> Iterator[Finding]:
    """Yield what SLURM has for a profile, from its commands to the nodes of each partition."""
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if missing:
        yield Finding(
            "SLURM commands",
            "problem",
            f"{', '.join(missing)}: not on the PATH",
            "run this on a login node of the cluster, or load its SLURM module; "
            "--profile none checks the rest",
        )
        yield Finding("SLURM", "not checked", "its commands are missing")
        return
    version = ask("sbatch", "--version").strip()
    yield Finding("SLURM commands", "ok", f"{', '.join(NEEDED)}: {version}")
    try:
        told = ask("scontrol", "ping").strip()
    except UnansweredError as error:
        yield Finding(
            CONTROLLER,
            "problem",
            str(error),
            "wait until the site's controller is back; nothing can be submitted before",
        )
        yield Finding("partitions and limits", "not checked", "the controller does not answer")
        return
    yield Finding(CONTROLLER, "ok", told.splitlines()[0])
    yield from guarded("SLURM configuration file", _default_configuration)
    site = Site.ask()
    yield from guarded("accounting", lambda: accounting(site, profile, requests))
    yield from guarded("partitions", lambda: judge(site, requests))
    yield from guarded("SLURM settings", lambda: settings(site, profile, requests))


def _default_configuration() -> Iterator[Finding]:
    """Yield whether SLURM is found without SLURM_CONF, which the executor takes from its jobs."""
    if "SLURM_CONF" not in os.environ:
        return
    check = "SLURM configuration file"
    environment = {key: value for key, value in os.environ.items() if key != "SLURM_CONF"}
    try:
        ask("scontrol", "ping", environment=environment)
    except UnansweredError:
        yield Finding(
            check,
            "warning",
            f"only SLURM_CONF={os.environ['SLURM_CONF']} leads to it, and jobs start their step "
            "without that variable",
            "make sure that on the nodes srun finds the controller without it",
        )
    else:
        yield Finding(check, "ok", "found with and without SLURM_CONF")


def accounting(site: Site, profile: Profile, requests: Sequence[Request]) -> Iterator[Finding]:
    """Yield whether slurmdbd answers, and knows the accounts and the QOS asked for."""
    asked = [("account", r.account) for r in requests] + [("qos", r.qos) for r in requests]
    named = list(dict.fromkeys((key, value) for key, value in asked if value))
    by_squeue = (
        "ask the site for a MinJobAge of 300, so that Snakemake need not ask sacct"
        if profile.options.get("slurm-status-command") == "squeue"
        else "set slurm-status-command: squeue in the profile, which works without slurmdbd"
    )
    if site.configuration.get("AccountingStorageType", "").endswith("none"):
        if _asks_sacct(site, profile):
            found = "none at this site, and Snakemake asks sacct for the states of jobs"
            yield Finding("accounting", "problem", found, by_squeue)
        else:
            yield Finding("accounting", "ok", "none at this site; squeue tells the states of jobs")
        if named:
            values = ", ".join(f"{key} {value}" for key, value in named)
            yield Finding("account and QOS", "not checked", f"{values}: there is no accounting")
        return
    fields = ("show", "associations", "where", f"user={getpass.getuser()}", "format=account,qos")
    try:
        told = ask("sacctmgr", "--noheader", "--parsable2", *fields)
    except UnansweredError as error:
        needed = _asks_sacct(site, profile)
        yield Finding(
            "accounting",
            "problem" if needed else "warning",
            str(error),
            by_squeue if needed else "nothing now; the states of jobs come from squeue",
        )
        for key, value in named:
            yield Finding(f"{key} {value}", "not checked", "slurmdbd does not answer")
        return
    rows = [line.split("|") for line in told.splitlines() if line]
    known = {
        "account": {row[0] for row in rows},
        "qos": {qos for row in rows for qos in row[1].split(",") if qos},
    }
    accounts = ", ".join(sorted(known["account"])) or "none"
    yield Finding("accounting", "ok", f"slurmdbd answers; your accounts: {accounts}")
    for key, value in named:
        if value in known[key]:
            yield Finding(f"{key} {value}", "ok", "is yours")
        else:
            yield Finding(
                f"{key} {value}",
                "problem",
                "SLURM does not know it as yours",
                f"ask for one of these in the profile: {', '.join(sorted(known[key])) or 'none'}",
            )


def settings(site: Site, profile: Profile, requests: Sequence[Request]) -> Iterator[Finding]:
    """Yield how SLURM's settings go with the way in which runs are watched and started again."""
    yield _memory_of_jobs(site, profile)
    options, told = profile.options, site.configuration
    requeue = told.get("JobRequeue") == "1"
    if requeue or options.get("slurm-requeue"):
        asked = "by default" if requeue else "where asked for, as the profile does"
        yield Finding("requeueing", "ok", f"JobRequeue={told.get('JobRequeue')}: {asked}")
    else:
        yield Finding(
            "requeueing",
            "warning",
            "JobRequeue=0: a job whose node fails is not started again by SLURM",
            "set slurm-requeue: true in the profile; otherwise Snakemake's retries start it again",
        )
    names = {name for request in requests for name in request.partitions}
    modes = {p.name: p.preemption for p in site.partitions.values() if p.name in names}
    shown = ", ".join(f"{name} {mode}" for name, mode in sorted(modes.items()))
    if any("SUSPEND" in mode for mode in modes.values()):
        yield Finding(
            "preemption",
            "warning",
            f"{shown}: a suspended run loses its lease after a minute and ends when it wakes up",
            "ask for partitions that requeue, where a run goes on from its checkpoint",
        )
    elif any("CANCEL" in mode for mode in modes.values()):
        yield Finding(
            "preemption",
            "problem",
            f"{shown}: Snakemake waits for ever for a job that preemption has cancelled",
            "ask for partitions that requeue, where a run goes on from its checkpoint",
        )
    elif modes:
        yield Finding("preemption", "ok", f"{shown}: a preempted run goes on from its checkpoint")
    wait = told.get("KillWait", "unknown")
    yield Finding(
        "KillWait", "ok", f"{wait} from the signal to the end, in which a run saves a checkpoint"
    )


def _memory_s(site: Site) -> int:
    """Return for how long squeue remembers jobs that have ended."""
    return int((re.findall(r"\d+", site.configuration.get("MinJobAge", "")) or ["0"])[0])


def _too_short(site: Site, profile: Profile) -> bool:
    """Return whether Snakemake takes squeue's memory for too short."""
    first = int(profile.options.get("slurm-init-seconds-before-status-checks", 40))
    return _memory_s(site) < _LOOKS * first


def _asks_sacct(site: Site, profile: Profile) -> bool:
    """Return whether Snakemake asks sacct for the states of jobs, as told to or falling back."""
    told = profile.options.get("slurm-status-command", "sacct") == "sacct"
    return shutil.which("sacct") is not None and (told or _too_short(site, profile))


def _memory_of_jobs(site: Site, profile: Profile) -> Finding:
    """Return whether squeue remembers ended jobs until Snakemake looks."""
    check = "MinJobAge"
    age = _memory_s(site)
    asks_sacct = _asks_sacct(site, profile)
    if asks_sacct and profile.options.get("slurm-status-command", "sacct") == "sacct":
        return Finding(check, "ok", f"{age} s; Snakemake asks sacct, which forgets no job")
    if _too_short(site, profile):
        if asks_sacct:
            return Finding(
                check,
                "warning",
                f"squeue forgets jobs after {age} s, so that Snakemake asks sacct instead",
                "make sure that slurmdbd answers (the line on accounting)",
            )
        return Finding(
            check,
            "problem",
            f"squeue forgets jobs after {age} s, and there is no sacct: ended jobs get lost",
            "ask the site for a MinJobAge of 300, or for sacct",
        )
    if age < _LONGEST_LOOK_S:
        return Finding(
            check,
            "warning",
            f"squeue forgets jobs after {age} s, and Snakemake looks every {_LONGEST_LOOK_S} s at "
            "the rarest",
            "set slurm-status-command: sacct in the profile, or ask the site for a MinJobAge of "
            "300",
        )
    return Finding(check, "ok", f"squeue remembers jobs for {age} s")
