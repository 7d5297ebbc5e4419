"""One run in its folder: started or resumed, trained, and brought to its result."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from acdc.config.run import RunConfig
from acdc.data import DATASETS
from acdc.distributed import Ranks
from acdc.errors import Diverged, Interrupted, Resumable, SuiteError
from acdc.files import remove_temporary, write_text
from acdc.methods.contract import Product
from acdc.methods.rules import broken, check_state
from acdc.run import records, step_time
from acdc.run.card import CARD, card
from acdc.run.checkpoints import CheckpointPolicy, Checkpoints
from acdc.run.failures import FAILED, ParentFailedError, record_failure, translate_errors
from acdc.run.journal import Journal
from acdc.run.lease import Lease
from acdc.run.model_store import ModelStore, digests
from acdc.run.progress import Reporter
from acdc.run.provenance import record as record_provenance
from acdc.run.reader import CONFIG, JOURNAL
from acdc.run.result import (
    DivergedResult,
    FailedResult,
    FinishedResult,
    Result,
    read_result,
    write_result,
)
from acdc.run.session import RunFiles, Session, StepRequest
from acdc.run.signals import StopRequests
from acdc.step import Step
from acdc.training.loop import train
from acdc.training.state import Engine, TrainState


@dataclass(frozen=True)
class Options:
    """How a run is carried out; nothing here changes its result but for rounding."""

    runs: Path
    """The folder of the run directories."""
    engine: Engine = field(default_factory=Engine)
    checkpoint_interval_s: float = 600.0
    """The longest training between checkpoints, which is what a killed run loses at most."""
    checkpoint_share: float = 0.01
    """The share of the time that checkpoints at the ends of epochs may take."""
    wait_s: float = 0.0
    """How long to wait for another process that trains the same run."""
    allow_failure: bool = False
    """Record an error that would recur as the result "failed" instead of raising it."""


def run(
    config: RunConfig,
    options: Options,
    reporter: Reporter,
    ranks: Ranks | None = None,
    stops: StopRequests | None = None,
) -> Result:
    """Train one run to its end, or return its result if it has one. Every rank calls this.

    A run that failed is trained again. By default this process is alone, and the requests to stop
    are those that come while the run is trained.

    Raises:
        SuiteError: what the user can fix, in one sentence.
        Resumable: the run was stopped, or another process trains it.
    """
    ranks = ranks or Ranks()
    folder = options.runs / config.run_name
    done = ranks.on_rank0(lambda: _ended(folder))
    if done is not None:
        reporter.say(f"{config.run_name} has finished already")
        return done
    lease = Lease(folder)
    with translate_errors(config.run_name, folder), contextlib.ExitStack() as stack:
        requests = stops or stack.enter_context(StopRequests())
        try:
            with translate_errors(config.run_name, folder):
                done = ranks.on_rank0(lambda: _enter(config, options, lease, requests, stack))
                return done or _train(config, options, reporter, ranks, lease, requests)
        except (Resumable, Interrupted):
            raise
        except Exception as error:
            if not ranks.first or not folder.is_dir():
                raise
            failure = record_failure(folder, error)
            if not failure.final or not options.allow_failure:
                raise
            result = FailedResult(
                **records.identity(config), error=failure.error, exit_status=failure.exit_status
            )
            write_result(folder, result)
            reporter.say(f"{config.run_name} failed: {failure.error}")
            return result


def _ended(folder: Path) -> Result | None:
    """Return the result of a run that needs no further training."""
    result = read_result(folder)
    return None if isinstance(result, FailedResult) else result


def _enter(
    config: RunConfig,
    options: Options,
    lease: Lease,
    stops: StopRequests,
    stack: contextlib.ExitStack,
) -> Result | None:
    """Take the lease on the run's folder; return a result that another process has left there."""
    folder = lease.folder
    folder.mkdir(parents=True, exist_ok=True)
    stack.enter_context(lease.held(options.wait_s, lambda: stops.received))
    done = _ended(folder)
    if done is None:
        remove_temporary(folder)
        remove_temporary(folder / "checkpoint")
        (folder / FAILED).unlink(missing_ok=True)
        write_text(folder / CONFIG, yaml.safe_dump(config.plain()))
    return done


def _train(
    config: RunConfig,
    options: Options,
    reporter: Reporter,
    ranks: Ranks,
    lease: Lease,
    stops: StopRequests,
) -> Result:
    """Train a run whose lease is held, from its newest checkpoint or from the start."""
    started, folder, metric = time.monotonic(), lease.folder, DATASETS[config.dataset].metric
    files = RunFiles(
        folder,
        lease,
        Journal(folder / JOURNAL, metric),
        Checkpoints(folder / "checkpoint", config.fingerprint),
        ModelStore(folder / "checkpoint", config.method_class.resumable, metric),
    )
    newest = ranks.on_rank0(lambda: files.checkpoints.newest(reporter.say, files.problem))
    # Before anything of this run takes up memory.
    parent = _train_parent(config, options, reporter, ranks, stops) if newest is None else None
    policy = CheckpointPolicy(options.checkpoint_interval_s, options.checkpoint_share)
    state = TrainState(config, options.engine, ranks)
    if state.loader.remark:
        reporter.say(state.loader.remark)
    session = Session(state, files, policy, reporter, stops, started)
    result: FinishedResult | DivergedResult
    try:
        at, totals = Step(0, 0, state.batches), None
        saved = None if newest is None else files.checkpoints.read(newest, state.device)
        if parent is not None:
            first = records.load_start(state, parent, options.runs, session.spent)
            at = Step(first, 0, state.batches)
        state.begin()
        if saved is None:
            session.start(at.epoch)
        else:
            at, totals = session.resume(saved)
        if ranks.first:
            record_provenance(folder, config, options.engine, ranks, resumed=saved is not None)
        session.spent.attempts += 1
        ranks.cancel(below=StepRequest.STOP + 1)  # what was asked for in the run before
        reporter.start(config, at)
        train(state, session, at, totals=totals)
        result = _finish(session)
    except Diverged as error:
        reporter.say(f"{config.run_name} diverged: {error}")
        result = DivergedResult(**session.trained(), diverged_at=error.epoch, diverged=str(error))
    except (SuiteError, OSError):
        raise
    except Exception:
        check_state(state.method)  # a rule that is broken says more than where it failed
        raise
    finally:
        state.loader.close()
    ranks.on_rank0(lambda: _conclude(config, files, result))
    return result


def _conclude(config: RunConfig, files: RunFiles, result: Result) -> None:
    """Write the result, and keep one checkpoint, from which it can be made again."""
    files.lease.check()
    if isinstance(result, FinishedResult):
        write_text(files.folder / CARD, card(config, result))
    write_result(files.folder, result)
    files.checkpoints.drop(keep=1)
    files.store.sweep(keep=1)


def _train_parent(
    config: RunConfig, options: Options, reporter: Reporter, ranks: Ranks, stops: StopRequests
) -> FinishedResult | DivergedResult | None:
    """Return the result of the run that this one starts from, trained now if it has none.

    Raises:
        ParentFailedError: it has failed; in a study it is trained again by a job of its own.
    """
    parent = config.parent
    if parent is None:
        return None
    folder = options.runs / parent.run_name
    known = ranks.on_rank0(lambda: read_result(folder))
    if isinstance(known, FailedResult) and options.allow_failure:
        raise ParentFailedError(f"{known.run}, from which it starts, failed: {known.error}")
    result = run(parent, options, reporter, ranks, stops)
    if isinstance(result, FailedResult):
        raise ParentFailedError(f"{result.run}, from which it starts, failed: {result.error}")
    return result


def _finish(session: Session) -> FinishedResult:
    """Evaluate the products of a trained run on the test images, and return its result."""
    state, files, ranks = session.state, session.files, session.state.ranks
    if not files.store.records["last"]:
        start, last = state.config.starts_from, state.config.epochs - 1
        # Without an epoch of its own, the method has worked in its setup.
        default: Product | None = "sparse" if start and start.epoch == last + 1 else None
        records.keep_model(state, files.store, last, state.score("validation"), default)
        if not files.store.records["last"]:
            allowed = "one of its products, at the last epoch at least"
            raise broken(state.config.method_class, "product returned None at every epoch", allowed)
        ranks.on_rank0(files.store.write)

    def publish() -> None:
        files.lease.check()
        files.store.publish(files.folder)

    ranks.on_rank0(publish)
    step_time.write(state, files.folder)  # before the weights are those that are evaluated
    started = time.perf_counter()
    products = records.evaluate_products(state, files.store, files.folder)
    common = session.trained(test_s=time.perf_counter() - started)
    return FinishedResult(**common, products=products, files=digests(files.folder))
