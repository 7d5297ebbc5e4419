"""Worker processes: unreadable files are named, and no process outlives what it works for."""

import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch

from acdc.data.folder import FolderSet
from acdc.data.loader import LoaderPlan
from acdc.errors import DataError
from tests.data.pictures import make, spec_of

PLAN = LoaderPlan(seed=7, batch_size=8, augmentation="crop_flip", device=torch.device("cpu"))


@pytest.fixture
def images(tmp_path: Path) -> FolderSet:
    return spec_of(make(tmp_path / "images")).load()


@pytest.mark.parametrize("victims", [1, 2])
def test_killed_workers(victims: int, images: FolderSet) -> None:
    loader = images.loader(replace(PLAN, workers=2))
    others = {child.pid for child in multiprocessing.active_children()}
    try:
        epoch = loader.training(0)
        next(epoch)
        pids = {child.pid for child in multiprocessing.active_children()} - others
        assert len(pids) == 2
        for pid in sorted(pids)[:victims]:
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(DataError, match="one was killed"):
            list(itertools.chain(epoch, *(loader.training(number) for number in range(100))))
        with pytest.raises(DataError, match="one was killed"):
            next(loader.evaluation("test"))
    finally:
        loader.close()
    assert not any(map(psutil.pid_exists, pids))


def test_closing_within_an_epoch_ends_the_workers(images: FolderSet) -> None:
    before = {child.pid for child in multiprocessing.active_children()}
    loader = images.loader(PLAN)
    next(loader.training(0))
    mine = {child.pid for child in multiprocessing.active_children()} - before
    assert mine
    loader.close()
    assert not any(map(psutil.pid_exists, mine))


ENDLESS = """
import signal, sys, torch
from tests.data.test_workers import PLAN, Path, spec_of
signal.signal(signal.SIGTERM, lambda *_: None)
signal.signal(signal.SIGUSR1, lambda *_: None)
if __name__ == "__main__":
    loader = spec_of(Path(sys.argv[1])).load().loader(PLAN)
    for epoch in range(10**6):
        for _ in loader.training(epoch):
            print("batch", flush=True)
"""


def session_leaders(pid: int) -> list[psutil.Process]:
    """Return the workers of a process: below its fork server, each in a session of its own."""
    below = psutil.Process(pid).children(recursive=True)
    return [child for child in below if os.getsid(child.pid) == child.pid]


def test_workers_ignore_signals_and_outlive_no_parent(images: FolderSet, tmp_path: Path) -> None:
    """Schedulers and terminals signal whole groups; a run that stops in order still reads."""
    (tmp_path / "endless.py").write_text(ENDLESS)
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "endless.py"), str(images.training.folder.parent)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    try:
        assert process.stdout.readline() == "batch\n"
        for number in (signal.SIGTERM, signal.SIGUSR1):
            os.killpg(process.pid, number)
        for _ in range(50):
            assert process.stdout.readline() == "batch\n"
        # One worker may read all of these while the other is still starting.
        while len(session_leaders(process.pid)) < 2:
            assert process.stdout.readline() == "batch\n"
        below = psutil.Process(process.pid).children(recursive=True)
    finally:
        process.kill()
        process.communicate()
    _, alive = psutil.wait_procs(below, timeout=60)
    assert not alive
