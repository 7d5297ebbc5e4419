"""What a profile has to say so that jobs are accepted, and go on when they are started again."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from workflow.doctor.findings import Finding
from workflow.doctor.profile import GPU_MODEL, Profile, Request

# Options of Snakemake that are to be set, what happens where they are not, and how to set them.
_SWITCHES = (
    ("keep-going", "nothing is submitted any more once one job has failed"),
    ("nolock", "a controller that was killed leaves a lock, and the next one does not start"),
    (
        "rerun-incomplete",
        "after a controller was killed the next one may refuse to start",
    ),
)


def examine(profile: Profile, requests: Sequence[Request]) -> Iterator[Finding]:
    """Yield what is amiss in a profile, whatever the site, or that nothing is.

    Args:
        profile: whose executor is SLURM.
        requests: what it asks for.
    """
    found = [*_resources(profile, requests), *_slurm_extra(profile), *_restarts(profile)]
    yield from found
    if not found:
        said = "the executor takes it, and jobs that end early go on in the next"
        yield Finding("profile", "ok", f"{profile.file}: {said}")


def _resources(profile: Profile, requests: Sequence[Request]) -> Iterator[Finding]:
    """Yield resources that are missing or that cannot be asked for in this way."""
    for request in {request.rule: request for request in requests}.values():
        rule = request.rule
        if request.gpus and rule not in profile.named:
            yield Finding(
                f"set-resources: {rule}",
                "problem",
                "it asks for GPUs and has no entry, only what default-resources says",
                f"give {rule} an entry such as that of train in workflow/profiles/slurm",
            )
        if request.gpu_type and not GPU_MODEL.fullmatch(request.gpu_type):
            yield Finding(
                f"gpu_model of {rule}",
                "problem",
                f"{request.gpu_type}: the executor takes letters, digits, _ and . only",
                "leave gpu_model out and ask by constraint or by partition",
            )
        if re.match(r"gpu\b", request.gres or ""):
            yield Finding(
                f"gres of {rule}",
                "problem",
                f"{request.gres}: the rules name gpu, and SLURM would be asked for GPUs twice",
                "name gpu_model; how many GPUs is the scale's `gpu`",
            )


def _slurm_extra(profile: Profile) -> Iterator[Finding]:
    """Yield what the options of sbatch in the configuration lack, and what they may not hold."""
    from snakemake_executor_plugin_slurm.validation import (  # type: ignore[import-untyped]
        get_forbidden_slurm_options,
    )

    given = str(profile.configuration.get("slurm_extra") or "")
    for pattern, what in get_forbidden_slurm_options().items():
        if re.search(pattern, given):
            yield Finding(
                f"slurm_extra: {what}",
                "problem",
                f"{given}: the executor says it itself, and submits no job with it",
                "leave it out of slurm_extra; what is to be asked for goes into set-resources",
            )
    remedy = "add {} to slurm_extra in the profile's configuration"
    if not given.strip():
        yield Finding(
            "slurm_extra",
            "warning",
            "empty: jobs of a controller that was killed are not waited for",
            "set it to --signal=USR1@120 --open-mode=append",
        )
    if not re.search(r"--signal[=\s]USR1@", given):
        yield Finding(
            "slurm_extra: --signal",
            "warning",
            "no --signal=USR1@: a run does not save before its job's time is up, and computes up "
            "to ten minutes again",
            remedy.format("--signal=USR1@120"),
        )
    if not re.search(r"--open-mode[=\s]append", given):
        yield Finding(
            "slurm_extra: --open-mode",
            "warning",
            "no --open-mode=append: SLURM's log of a job that is put back into the queue begins "
            "anew",
            remedy.format("--open-mode=append"),
        )


def _restarts(profile: Profile) -> Iterator[Finding]:
    """Yield the options of Snakemake that jobs which end early rely on."""
    options = profile.options
    if str(options.get("retries", options.get("restart-times", 0))) == "0":
        yield Finding(
            "retries",
            "warning",
            "none: a run that is longer than its job's time ends with it",
            "set retries in the profile to as many jobs as the longest run may need",
        )
    for name, consequence in _SWITCHES:
        if not options.get(name):
            yield Finding(
                name, "warning", f"not set: {consequence}", f"set {name}: true in the profile"
            )
    triggers = re.findall(r"[\w-]+", str(options.get("rerun-triggers", "code")))
    if "code" in triggers:
        yield Finding(
            "rerun-triggers",
            "warning",
            "code is one of them: a change of the rules trains all runs again",
            "set rerun-triggers: [mtime, params, input] in the profile",
        )
