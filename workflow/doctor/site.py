"""A cluster as SLURM tells of it: its configuration, partitions and nodes."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from workflow.doctor.findings import ask

_UNUSABLE = {
    *("DOWN", "DRAIN", "DRAINED", "DRAINING", "FAIL", "ERROR", "UNKNOWN", "INVAL", "FUTURE"),
    *("NOT_RESPONDING", "MAINTENANCE"),
}


@dataclass(frozen=True)
class Node:
    """A compute node as ``scontrol show node`` tells of it."""

    name: str
    partitions: tuple[str, ...]
    state: str
    memory_mb: int
    cores: int
    gpus: Mapping[str, int]
    """By type; of no type under the empty name."""
    features: frozenset[str]

    @property
    def usable(self) -> bool:
        """Whether jobs start on it, now or once those there have ended."""
        flags = self.state.upper().split("+")
        return not any(flag.rstrip("*~#!%$@^-") in _UNUSABLE or "*" in flag for flag in flags)


@dataclass(frozen=True)
class Partition:
    """A partition as ``scontrol show partition`` tells of it; None: without limit."""

    name: str
    state: str
    default: bool
    minutes: int | None
    memory_mb: int | None
    """On a node."""
    cores: int | None
    """On a node."""
    nodes: int | None
    """Of a job."""
    preemption: str
    groups: frozenset[str] | None
    accounts: frozenset[str] | None
    qos: frozenset[str] | None
    denied_accounts: frozenset[str]
    denied_qos: frozenset[str]


@dataclass(frozen=True)
class Site:
    """A cluster."""

    configuration: Mapping[str, str]
    partitions: Mapping[str, Partition]
    nodes: Sequence[Node]
    groups: frozenset[str] | None = None
    """Of this user; None: one who may use every partition."""

    @staticmethod
    def ask() -> Site:
        """Return what the controller tells.

        Raises:
            UnansweredError: it does not.
        """
        return Site(
            parse_configuration(ask("scontrol", "show", "config")),
            parse_partitions(ask("scontrol", "--all", "--oneliner", "show", "partition")),
            parse_nodes(ask("scontrol", "--all", "--oneliner", "show", "node")),
            user_groups(),
        )


def user_groups() -> frozenset[str] | None:
    """Return the groups of this user, None for root, whom SLURM asks for none."""
    if os.getuid() == 0:
        return None
    user = pwd.getpwuid(os.getuid())
    found = set()
    for number in os.getgrouplist(user.pw_name, user.pw_gid):
        with contextlib.suppress(KeyError):  # of no name on this host
            found.add(grp.getgrgid(number).gr_name)
    return frozenset(found)


def parse_configuration(text: str) -> dict[str, str]:
    """Return what ``scontrol show config`` prints, by key."""
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line)
    return {key.strip(): value.strip() for key, _, value in pairs}


def _records(text: str) -> Iterator[dict[str, str]]:
    """Yield the keys and values of each line that ``scontrol --oneliner show`` prints."""
    for line in text.splitlines():
        _, *parts = re.split(r"(?:^|\s+)([A-Z]\w+)=", line)
        pairs = list(zip(parts[::2], parts[1::2], strict=True))
        if pairs:
            # What a person has written (a reason, a comment) comes last and may hold anything.
            yield {key: value.strip() for key, value in reversed(pairs)}


def parse_partitions(text: str) -> dict[str, Partition]:
    """Return the partitions that ``scontrol --oneliner show partition`` prints, by name."""
    return {
        record["PartitionName"]: Partition(
            record["PartitionName"],
            record["State"],
            record.get("Default") == "YES",
            parse_minutes(record["MaxTime"]),
            _limit(record.get("MaxMemPerNode")),
            _limit(record.get("MaxCPUsPerNode")),
            _limit(record.get("MaxNodes")),
            record.get("PreemptMode", "OFF"),
            _only(record.get("AllowGroups")),
            _only(record.get("AllowAccounts")),
            _only(record.get("AllowQos")),
            _only(record.get("DenyAccounts")) or frozenset(),
            _only(record.get("DenyQos")) or frozenset(),
        )
        for record in _records(text)
        if "PartitionName" in record
    }


def parse_nodes(text: str) -> list[Node]:
    """Return the nodes that ``scontrol --oneliner show node`` prints."""
    return [
        Node(
            record["NodeName"],
            tuple(record.get("Partitions", "").split(",")),
            record["State"],
            int(record["RealMemory"]) - int(record.get("MemSpecLimit", 0)),
            int(record.get("CPUEfctv", record["CPUTot"])),
            parse_gpus(record.get("Gres", "")),
            _only(record.get("AvailableFeatures")) or frozenset(),
        )
        for record in _records(text)
        if "NodeName" in record
    ]


def parse_gpus(gres: str) -> dict[str, int]:
    """Return the GPUs by type of a list such as ``gpu:a100:4(S:0-1),gpu:2,shard:8``."""
    found: dict[str, int] = {}
    for kind, count in re.findall(r"(?:^|,)gpu(?::([^:,(]*[^\d:,(][^:,(]*))?(?::(\d+))?", gres):
        found[kind] = found.get(kind, 0) + int(count or 1)
    return found


def parse_minutes(text: str) -> int | None:
    """Return a time limit such as 1-12:30:00 in minutes, None for none."""
    found = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d+):(\d+)", text)
    if not found:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return (days * 24 + hours) * 60 + minutes + (seconds > 0)


def _limit(text: str | None) -> int | None:
    return int(text) if text and text.isdecimal() and text != "0" else None


def _only(text: str | None) -> frozenset[str] | None:
    return None if text in (None, "", "ALL", "(null)") else frozenset(text.split(","))
