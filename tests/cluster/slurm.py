"""A throw-away SLURM cluster on this machine: real daemons, a few virtual nodes, fake GPUs.

Debian's packages slurmctld, slurmd, slurm-client, slurmdbd, munge and mariadb-server, as root,
without systemd and cgroups. All of its state is below one folder, but for the link
/etc/slurm/slurm.conf: what Snakemake starts within a job does not inherit SLURM_CONF.
"""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

PROGRAMS = ("munged", "slurmctld", "slurmd", "slurmdbd", "sbatch", "mariadbd")
LINK = Path("/etc/slurm/slurm.conf")
PREFIX = "acdc-cluster-"
"""Of the names of the folders of clusters."""
# Debian keeps daemons where a user's PATH does not look.
_SBIN = "/usr/sbin:/sbin"

_SLURM_CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# A credential that a requeued job was refused with is kept for so long; the default is two minutes.
AuthInfo=socket={root}/run/munge.socket,cred_expire=5
MpiDefault=none
# No cgroups: processes are found by their parents, memory is watched by sampling.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2,sched_interval=2,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
KillWait=10
SlurmdTimeout=15
SlurmctldTimeout=30
SlurmctldPidFile={root}/run/slurmctld.pid
SlurmctldLogFile={root}/log/slurmctld.log
StateSaveLocation={root}/state
SlurmdPidFile={root}/run/slurmd-%n.pid
SlurmdLogFile={root}/log/slurmd-%n.log
SlurmdSpoolDir={root}/spool/%n
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={port_accounts}
AccountingStoragePass={root}/run/munge.socket
AccountingStorageTRES=gres/gpu
AccountingStoreFlags=job_comment
GresTypes=gpu
NodeName=n[1-{nodes}] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{first}-{last}] \
CPUs={cores} Boards=1 SocketsPerBoard=1 CoresPerSocket={cores} ThreadsPerCore=1 \
RealMemory={memory_mb} Gres=gpu:a100:{gpus} State=UNKNOWN
PartitionName=DEFAULT Nodes=ALL MaxTime=1-00:00:00 DefaultTime=00:30:00 DefMemPerCPU=500 State=UP
PartitionName=main PriorityTier=10 Default=YES
PartitionName=gpu Nodes=n[1-{before_last}] PriorityTier=10
PartitionName=scavenge Nodes=n{nodes} PriorityTier=1 PreemptMode=REQUEUE
"""

_GRES_CONF = """\
AutoDetect=off
NodeName=n[1-{nodes}] Name=gpu Type=a100 File={root}/dev/gpu[0-{last_gpu}]
"""

_SLURMDBD_CONF = """\
AuthType=auth/munge
AuthInfo=socket={root}/run/munge.socket
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={port_accounts}
SlurmUser=root
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={port_database}
StorageUser=slurm
StoragePass=slurm
StorageLoc=accounts
LogFile={root}/log/slurmdbd.log
PidFile={root}/run/slurmdbd.pid
"""

_DATABASE = """\
CREATE DATABASE IF NOT EXISTS accounts;
CREATE USER IF NOT EXISTS 'slurm'@'127.0.0.1' IDENTIFIED BY 'slurm';
CREATE USER IF NOT EXISTS 'slurm'@'localhost' IDENTIFIED BY 'slurm';
GRANT ALL ON accounts.* TO 'slurm'@'127.0.0.1';
GRANT ALL ON accounts.* TO 'slurm'@'localhost';
"""


def missing_programs() -> list[str]:
    """Return what has to be installed for a cluster and is not."""
    return [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]


def wait_until(condition: Callable[[], object], what: str, seconds: float = 60) -> None:
    """Wait for a condition.

    Raises:
        TimeoutError: it has not come true.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds:g} s")
        time.sleep(0.1)


def _path() -> str:
    return f"{os.environ.get('PATH', os.defpath)}:{_SBIN}"


@dataclass(frozen=True)
class Cluster:
    """A cluster whose state is below a folder."""

    root: Path
    nodes: int = 5
    cores: int = 16
    """Of a node, as it tells SLURM; they are all the same few of this machine."""
    memory_mb: int = 64000
    gpus: int = 2
    port: int = 16817
    """Of the controller; the others follow."""

    @property
    def configuration(self) -> Path:
        """The file that SLURM_CONF names."""
        return self.root / "etc" / "slurm.conf"

    @property
    def node_names(self) -> list[str]:
        """n1, n2 and so on."""
        return [f"n{number}" for number in range(1, self.nodes + 1)]

    def run(
        self, *command: str, check: bool = True, input: str | None = None, timeout: float = 60
    ) -> str:
        """Run a command with the cluster's configuration and return what it prints."""
        done = subprocess.run(
            command,
            env={**os.environ, "PATH": _path(), "SLURM_CONF": str(self.configuration)},
            input=input,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
        )
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(command)}: status {done.returncode}: {done.stdout}")
        return done.stdout

    def up(self) -> None:
        """Start all daemons and wait until every node is idle."""
        self._write_configuration()
        self.run(
            "munged",
            f"--key-file={self.root}/munge/munge.key",
            f"--socket={self.root}/run/munge.socket",
            f"--pid-file={self.root}/run/munged.pid",
            f"--log-file={self.root}/munge/munged.log",
            f"--seed-file={self.root}/munge/munged.seed",
        )
        self._start_database()
        self.start_accounting()
        clusters = ("sacctmgr", "-n", "-p", "list", "cluster", "test")
        wait_until(lambda: "rror" not in self.run(*clusters, check=False), "slurmdbd")
        if "test|" not in self.run(*clusters):
            self.run("sacctmgr", "-i", "add", "cluster", "test")
            account = ("Description=lab", "Organization=lab")
            self.run("sacctmgr", "-i", "add", "account", "lab", *account)
            # Exists already where the daemon runs as root.
            self.run("sacctmgr", "-i", "add", "user", "root", "Account=lab", check=False)
            self.run("sacctmgr", "-i", "modify", "user", "root", "set", "DefaultAccount=lab")
        self.start_controller()
        for node in self.node_names:
            self.start_node(node)
        wait_until(
            lambda: self.run("sinfo", "-hN", "-p", "main", "-t", "idle").count("\n") == self.nodes,
            "idle nodes",
        )

    def down(self) -> None:
        """End all jobs and daemons that are there, and remove the link."""
        if self._pid("slurmctld"):
            self.run("scancel", "--user=root", check=False)
            time.sleep(1)
        daemons = [f"slurmd-{node}" for node in self.node_names]
        for daemon in (*daemons, "slurmctld", "slurmdbd", "mariadbd", "munged"):
            self.stop(daemon)
        if LINK.is_symlink() and LINK.readlink() == self.configuration:
            LINK.unlink()

    def start_controller(self) -> None:
        """Start slurmctld."""
        self.run("slurmctld")

    def start_node(self, name: str) -> None:
        """Start a node's slurmd."""
        (self.root / "spool" / name).mkdir(parents=True, exist_ok=True)
        self.run("slurmd", "-N", name)

    def start_accounting(self) -> None:
        """Start slurmdbd and wait until it listens."""
        self.run("slurmdbd")
        wait_until(lambda: _listens(self.port + 2), "slurmdbd")

    def crash(self, name: str) -> None:
        """End a node's slurmd and all that it runs at once, so that SLURM hears no more of it."""
        jobs = set(self.run("squeue", "-hw", name, "--format=%A").split())
        pid = self._pid(f"slurmd-{name}")
        os.kill(pid, signal.SIGKILL)
        own = [process for process in psutil.process_iter() if _job_of(process) in jobs]
        # Those of SLURM first, which would report that the others ended.
        for process in sorted(own, key=lambda process: process.name() != "slurmstepd"):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def stop(self, daemon: str, number: signal.Signals = signal.SIGTERM) -> None:
        """End a daemon, given by the name of its pid file, and wait until it is gone."""
        pid = self._pid(daemon)
        if pid is None:
            return
        os.kill(pid, number)
        try:
            wait_until(lambda: not _alive(pid), daemon, seconds=15)
        except TimeoutError:
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda: not _alive(pid), daemon)
        (self.root / "run" / f"{daemon}.pid").unlink(missing_ok=True)

    def _pid(self, daemon: str) -> int | None:
        try:
            pid = int((self.root / "run" / f"{daemon}.pid").read_text())
        except (OSError, ValueError):
            return None
        return pid if _alive(pid) else None

    def _write_configuration(self) -> None:
        if LINK.exists() and not (LINK.is_symlink() and self._is_ours(LINK.readlink())):
            raise RuntimeError(f"{LINK} is there already: this machine is part of a cluster")
        for name in ("etc", "log", "run", "state", "spool", "munge", "database", "dev"):
            (self.root / name).mkdir(parents=True, exist_ok=True)
        # munge refuses a socket in a folder that others cannot enter, and a key that they can read.
        for folder in (self.root, *self.root.iterdir()):
            folder.chmod(0o755)
        (self.root / "munge").chmod(0o700)
        key = self.root / "munge" / "munge.key"
        if not key.exists():
            key.write_bytes(os.urandom(1024))
            key.chmod(0o400)
        for number in range(self.gpus):
            gpu = self.root / "dev" / f"gpu{number}"
            if not gpu.exists():
                # What SLURM takes for a GPU is the null device.
                os.mknod(gpu, 0o666 | 0o020000, os.makedev(1, 3))
        values = {
            "root": self.root,
            "host": socket.gethostname().partition(".")[0],
            "nodes": self.nodes,
            "before_last": self.nodes - 1,
            "cores": self.cores,
            "memory_mb": self.memory_mb,
            "gpus": self.gpus,
            "last_gpu": self.gpus - 1,
            "port": self.port,
            "port_accounts": self.port + 2,
            "port_database": self.port + 3,
            "first": self.port + 101,
            "last": self.port + 100 + self.nodes,
        }
        self.configuration.write_text(_SLURM_CONF.format(**values))
        (self.root / "etc" / "gres.conf").write_text(_GRES_CONF.format(**values))
        accounts = self.root / "etc" / "slurmdbd.conf"
        accounts.write_text(_SLURMDBD_CONF.format(**values))
        accounts.chmod(0o600)
        LINK.parent.mkdir(exist_ok=True)
        LINK.unlink(missing_ok=True)
        LINK.symlink_to(self.configuration)

    def _is_ours(self, target: Path) -> bool:
        """Whether a link is this cluster's, or left behind by one that was killed."""
        if target == self.configuration:
            return True
        names = {process.name() for process in psutil.process_iter()}
        return target.parent.parent.name.startswith(PREFIX) and "slurmctld" not in names

    def _start_database(self) -> None:
        folder, user = self.root / "database", "--user=mysql"
        shutil.chown(folder, "mysql")
        data, sockets = f"--datadir={folder}/data", f"--socket={folder}/my.sock"
        if not (folder / "data" / "mysql").exists():
            socket_login = "--auth-root-authentication-method=socket"
            self.run("mariadb-install-db", "--no-defaults", user, data, socket_login)
        with (self.root / "log" / "mariadb.log").open("ab") as log:
            process = subprocess.Popen(
                [
                    *("mariadbd", "--no-defaults", user, data, sockets, "--bind-address=127.0.0.1"),
                    *(f"--port={self.port + 3}", "--innodb-buffer-pool-size=128M"),
                    *("--innodb-lock-wait-timeout=900", "--innodb-flush-log-at-trx-commit=0"),
                ],
                env={**os.environ, "PATH": _path()},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        (self.root / "run" / "mariadbd.pid").write_text(str(process.pid))
        client: Sequence[str] = ("mariadb", "--no-defaults", sockets)
        ask = (*client, "-Ne", "SELECT 'ready'")
        wait_until(lambda: self.run(*ask, check=False).strip() == "ready", "MariaDB")
        self.run(*client, input=_DATABASE)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _alive(pid: int) -> bool:
    """Return whether a process is there that is not only waiting to be collected."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def _job_of(process: psutil.Process) -> str | None:
    """Return the job that a process is part of."""
    try:
        step = re.match(r"slurmstepd: \[(\d+)\.", " ".join(process.cmdline()))
        return step[1] if step else process.environ().get("SLURM_JOB_ID")
    except psutil.Error:
        return None
