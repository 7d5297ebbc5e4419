"""Whether the partitions of a cluster can run what a profile asks for."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from workflow.doctor.findings import Finding
from workflow.doctor.profile import GPU_MODEL, Request
from workflow.doctor.site import Node, Partition, Site


def judge(site: Site, requests: Sequence[Request]) -> Iterator[Finding]:
    """Yield for each rule and partition whether a node there can run its jobs."""
    default = [name for name, partition in site.partitions.items() if partition.default]
    for request in requests:
        names = request.partitions or tuple(default)
        if not names:
            yield Finding(
                f"{request.name}: partition",
                "problem",
                "the profile names none, and the site has no default",
                f"set slurm_partition to one of {', '.join(site.partitions)}",
            )
        found = [_judge(site, request, name) for name in names]
        fits = any(finding.state != "problem" for finding in found)
        strict = site.configuration.get("EnforcePartLimits") == "ALL"
        for name, finding in zip(names, found, strict=True):
            # SLURM takes the partition that can, but no job that names one which there is not.
            spare = fits and not strict and name in site.partitions
            state = "warning" if finding.state == "problem" and spare else finding.state
            yield Finding(finding.check, state, finding.found, finding.remedy)
        for expression in request.evaluated:
            yield Finding(
                f"{request.name}: {expression}", "not checked", "Snakemake evaluates it job by job"
            )


def _judge(site: Site, request: Request, name: str) -> Finding:
    check = f"{request.name} on partition {name}"

    def problem(found: str, remedy: str) -> Finding:
        return Finding(check, "problem", found, remedy)

    partition = site.partitions.get(name)
    if partition is None:
        known = ", ".join(site.partitions) or "no partitions"
        return problem(
            "there is no such partition",
            f"set slurm_partition of {request.rule} to one that there is: {known}",
        )
    if partition.state != "UP":
        return problem(
            f"the partition is {partition.state}", "wait until it is up, or ask for another"
        )
    only, mine = partition.groups, site.groups
    if only is not None and mine is not None and not only & mine:
        return problem(
            f"it is for the groups {', '.join(sorted(only))} only, and none is yours",
            "ask for another partition, or ask the site to be let into one of them",
        )
    for key, value, allowed, denied in (
        ("account", request.account, partition.accounts, partition.denied_accounts),
        ("qos", request.qos, partition.qos, partition.denied_qos),
    ):
        if value and allowed is not None and value not in allowed:
            return problem(
                f"{key} {value} may not use it",
                f"ask for another partition, or one of these: {', '.join(sorted(allowed))}",
            )
        if value in denied:
            return problem(
                f"{key} {value} may not use it", f"ask for another partition or another {key}"
            )
    if partition.nodes and request.nodes > partition.nodes:
        return problem(
            f"{request.nodes} nodes are asked for, {partition.nodes} are allowed",
            f"ask for fewer GPUs of {request.rule} (gpu of the scale's tasks), or for another "
            "partition",
        )
    if request.minutes and partition.minutes and request.minutes > partition.minutes:
        return problem(
            f"runtime {request.minutes} min is asked for, {partition.minutes} min are allowed",
            f"set runtime of {request.rule} to {partition.minutes} or less: a run that is not done "
            "by then goes on from its checkpoint in the next attempt",
        )
    nodes = [node for node in site.nodes if name in node.partitions]
    fitting = [node for node in nodes if not lacks(node, request, partition)]
    if not fitting:
        return problem(*_wanting(nodes, request, partition))
    asked = _words(request)
    if len(fitting) < request.nodes:
        return problem(
            f"{asked}: {request.nodes} nodes are asked for, and {len(fitting)} have it",
            f"ask for fewer GPUs of {request.rule} (gpu of the scale's tasks), or for another "
            "partition",
        )
    usable = [node for node in fitting if node.usable]
    if not usable:
        states = ", ".join(sorted({node.state for node in fitting}))
        return problem(
            f"{asked}: {len(fitting)} nodes have it, and all are {states}",
            "wait until the site brings one back (sinfo --list-reasons says why), or ask for "
            "another partition",
        )
    limit = "no time limit" if partition.minutes is None else f"up to {partition.minutes} min"
    away = len(fitting) - len(usable)
    return Finding(
        check,
        "ok",
        f"{asked}: {len(usable)} of {len(nodes)} nodes can"
        + (f", {away} more are down or drained" if away else "")
        + f"; {limit}",
    )


def lacks(node: Node, request: Request, partition: Partition) -> list[str]:
    """Return what a node does not have of what is asked for: memory, cores, GPUs, constraint."""
    found = []
    if (request.memory_mb or 0) > min(node.memory_mb, partition.memory_mb or node.memory_mb):
        found.append("memory")
    if request.cores > min(node.cores, partition.cores or node.cores):
        found.append("cores")
    gpus = sum(node.gpus.values())
    if request.gpus > (node.gpus.get(request.gpu_type, 0) if request.gpu_type else gpus):
        found.append("GPUs")
    if not _has_features(node, request.constraint):
        found.append("constraint")
    return found


def _has_features(node: Node, constraint: str | None) -> bool:
    """Return whether a node has features joined by ``&`` and ``|``; others are left to SLURM."""
    if not constraint or re.search(r"[^\w&|.-]", constraint):
        return True
    return any(
        node.features.issuperset(choice.split("&")) for choice in re.split(r"\|", constraint)
    )


def _wanting(nodes: Sequence[Node], request: Request, partition: Partition) -> tuple[str, str]:
    """Return what no node of a partition has, and what to do."""
    if not nodes:
        return "the partition has no nodes", "ask for another partition"
    common = set.intersection(*(set(lacks(node, request, partition)) for node in nodes))
    found, remedies = [], []
    if "memory" in common:
        most = max(node.memory_mb for node in nodes)
        most = min(most, partition.memory_mb or most)
        found.append(f"{request.memory_mb} MB of memory are asked for, a node has {most} at most")
        remedies.append(f"set mem_mb or mem_mb_per_cpu of {request.rule} to {most} MB in all")
    if "GPUs" in common:
        kinds = {f"{count} {kind or 'GPU'}" for n in nodes for kind, count in n.gpus.items()}
        there = " or ".join(sorted(kinds)) or "none"
        found.append(f"{_gpus(request)} are asked for on a node, nodes have {there}")
        types = {kind for node in nodes for kind in node.gpus}
        if request.gpu_type and types and request.gpu_type not in types:
            named = ", ".join(sorted(filter(GPU_MODEL.fullmatch, types)))
            remedies.append(
                f"set gpu_model of {request.rule} to one of {named}"
                if named
                else f"leave gpu_model of {request.rule} out and ask by constraint or by partition"
            )
        elif types:
            remedies.append("set gpus_per_node in the profile's configuration to what a node has")
    if "cores" in common:
        most = max(node.cores for node in nodes)
        most = min(most, partition.cores or most)
        found.append(f"{request.cores} cores are asked for, a node has {most} at most")
        remedies.append(f"set set-threads or cpus_per_gpu of {request.rule} to {most} cores in all")
    if "constraint" in common:
        features = sorted(frozenset[str]().union(*(node.features for node in nodes)))
        found.append(f"constraint {request.constraint}: no node has it")
        remedies.append(f"ask for features that there are: {', '.join(features) or 'none'}")
    if not found:
        found.append(f"{_words(request)}: nodes have each of it, and none has all of it")
        remedies.append(f"ask for less memory or fewer cores for {request.rule}")
    here = [" and ".join(remedies)] if remedies else []
    return "; ".join(found), ", or ".join([*here, "ask for another partition"])


def _gpus(request: Request) -> str:
    return f"{request.gpus} {request.gpu_type or 'GPU'}"


def _words(request: Request) -> str:
    parts = [f"{request.cores} core{'s' if request.cores > 1 else ''}"]
    if request.memory_mb:
        parts.append(f"{request.memory_mb} MB")
    if request.gpus:
        parts.append(_gpus(request))
    if request.constraint:
        parts.append(request.constraint)
    return ", ".join(parts) + (f" on each of {request.nodes} nodes" if request.nodes > 1 else "")
