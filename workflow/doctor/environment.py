"""What a run needs besides SLURM and disks: packages, torch, the source, data, tracking."""

from __future__ import annotations

import base64
import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from urllib.parse import unquote, urlsplit

from acdc.run.provenance import git_revision
from study.model import FOLDER, Study
from tracking.store import TrackingError, load_mlflow, tracking_uri, without_password
from workflow.doctor.findings import Finding

CONSTRAINTS = FOLDER.parent / "constraints.txt"
_ANSWER_S = 10.0
_MOST_BYTES = 1_000_000
_ROOT = "set MLFLOW_TRACKING_URI to the root of an MLflow server"


def packages(extras: tuple[str, ...]) -> Iterator[Finding]:
    """Yield whether what the suite and some of its extras need is installed, as it was tested."""
    from packaging.requirements import Requirement
    from packaging.version import Version

    tested: dict[str, Version] = {}
    if CONSTRAINTS.exists():
        lines = CONSTRAINTS.read_text(encoding="utf-8").splitlines()
        pins = (line.partition("==") for line in lines if not line.startswith("#"))
        tested = {name: Version(version) for name, _, version in pins if version}
    wrong, other, count = [], [], 0
    for text in metadata.requires("acdc-suite") or []:
        needed = Requirement(text)
        wanted = [{"extra": extra} for extra in ("", *extras)]
        if needed.marker is not None and not any(needed.marker.evaluate(e) for e in wanted):
            continue
        count += 1
        try:
            version = Version(metadata.version(needed.name))
        except metadata.PackageNotFoundError:
            wrong.append(f"{needed.name} is missing")
            continue
        public = Version(version.public)  # torch's build, such as +cpu, is no version
        if public not in needed.specifier:
            wrong.append(f"{needed.name} {version} is not {needed.specifier}")
        elif tested.get(needed.name, public) != public:
            other.append(f"{needed.name} {version} (tested: {tested[needed.name]})")
    check = "Python packages"
    remedy = "install them with make, or: pip install -e '.[suite,slurm]' -c constraints.txt"
    if wrong:
        yield Finding(check, "problem", ", ".join(wrong), remedy)
    elif other:
        yield Finding(check, "warning", ", ".join(other), remedy)
    else:
        as_tested = ", as tested together" if tested else ""
        yield Finding(check, "ok", f"{count} that the suite asks for are there{as_tested}")


def torch_build(gpus: bool) -> Iterator[Finding]:
    """Yield for which device torch is built; this host need not have a GPU.

    Args:
        gpus: whether jobs ask for some.
    """
    import torch

    built = torch.version.cuda or torch.version.hip
    check = "torch"
    if built or not gpus:
        yield Finding(
            check, "ok", f"{torch.__version__}, built for {f'GPUs ({built})' if built else 'CPUs'}"
        )
    else:
        yield Finding(
            check,
            "problem",
            f"{torch.__version__} is built for CPUs, and the profile asks for GPUs",
            "install it anew with make clean and make .venv/suite TORCH=cu128, or the CUDA that "
            "the nodes' driver has",
        )


def checkout() -> Iterator[Finding]:
    """Yield whether results will say exactly which code made them."""
    found = git_revision()
    check = "source"
    if found["revision"] is None:
        yield Finding(
            check,
            "warning",
            "no git checkout, so that results cannot name their revision",
            "clone the repository instead of copying its files",
        )
    elif not found["clean"]:
        yield Finding(
            check,
            "warning",
            f"revision {found['revision'][:12]} with changes in acdc, baselines or workflow",
            "commit them, so that results name the code that made them",
        )
    else:
        yield Finding(check, "ok", f"revision {found['revision'][:12]}, unchanged")


def data(study: Study, missing: list[str], where: str = "") -> Iterator[Finding]:
    """Yield which data sets of a study are there, judged by the names of their files.

    Args:
        study: at its scale.
        missing: what ``Study.missing_data`` says.
        where: for the name of the check.
    """
    check = f"data sets{where}"
    for sentence in missing:
        what, _, remedy = sentence.partition("; ")
        yield Finding(check, "problem", what, remedy)
    if not missing:
        found = ", ".join(study.datasets) or "none is needed"
        yield Finding(check, "ok", f"{found} (acdc data check reads them)")


def tracking(folder: Path) -> Iterator[Finding]:
    """Yield whether the tracking store answers and lets this user in.

    Args:
        folder: of the study's results.

    Raises:
        ConfigError: MLFLOW_TRACKING_URI names no store.
    """
    uri = tracking_uri(None, folder)
    shown = without_password(uri, uri)
    check = "tracking server"
    if uri.startswith("sqlite"):
        default = "" if os.environ.get("MLFLOW_TRACKING_URI") else ", the default"
        yield Finding(check, "ok", f"none but a file{default}: {shown}")
        return
    if not uri.startswith("http"):
        yield Finding(check, "not checked", f"{shown}: acdc sync asks the database itself")
        return
    try:
        with urllib.request.urlopen(_request(uri), timeout=_ANSWER_S) as answer:
            mlflow = _of_mlflow(answer.read(_MOST_BYTES))
    except urllib.error.HTTPError as error:
        denied = error.code in (401, 403)
        yield Finding(
            check,
            "problem",
            f"{shown} {'refuses the credentials' if denied else 'answers'}: status {error.code}",
            "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
            if denied
            else _ROOT,
        )
    except OSError as error:
        yield Finding(
            check,
            "problem",
            without_password(f"{shown}: no server answers there: {error}", uri),
            "start it or mend MLFLOW_TRACKING_URI; nothing is lost meanwhile: acdc sync sends what "
            "is missing later",
        )
    else:
        if mlflow:
            yield Finding(check, "ok", f"{shown} answers and lets you in")
        else:
            yield Finding(check, "problem", f"{shown} answers, but not as MLflow does", _ROOT)


def _of_mlflow(text: bytes) -> bool:
    """Return whether a list of experiments is what was answered, and no page of a proxy."""
    try:
        told = json.loads(text)
    except ValueError:
        return False
    # Without experiments it is empty.
    return isinstance(told, dict) and told.keys() <= {"experiments", "next_page_token"}


def _request(uri: str) -> urllib.request.Request:
    """Return the cheapest question that needs the credentials, as MLflow's client sends them."""
    parts = urlsplit(uri)
    plain = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl().rstrip("/")
    request = urllib.request.Request(f"{plain}/api/2.0/mlflow/experiments/search?max_results=1")
    name, word = _credentials()
    if not (name and word):
        name, word = unquote(parts.username or ""), unquote(parts.password or "")
    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    if name and word:
        coded = base64.b64encode(f"{name}:{word}".encode()).decode()
        request.add_header("Authorization", f"Basic {coded}")
    elif token:
        request.add_header("Authorization", f"Bearer {token}")
    return request


def _credentials() -> tuple[str | None, str | None]:
    """Return user and password of the environment or of ~/.mlflow/credentials."""
    try:
        load_mlflow()
    except TrackingError:
        given = os.environ
        return given.get("MLFLOW_TRACKING_USERNAME"), given.get("MLFLOW_TRACKING_PASSWORD")
    from mlflow.utils.credentials import read_mlflow_creds

    found = read_mlflow_creds()
    return found.username, found.password
