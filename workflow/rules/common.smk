# The study that the configuration names, and the files that it consists of.

import atexit
import os
import shlex
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.logging import logger

from acdc.messages import accepted
from acdc.errors import ConfigError, SuiteError
from acdc.run.failures import failures
from acdc.run.results import SPARE
from theory.layout import WITHOUT_FIGURE
from workflow import signals, slurm, suite
from study import resolve

if not workflow.is_main_process:
    signals.pass_on()

# Jobs say "python": the one that runs Snakemake, or that of environment.yml with --sdm conda.
if not workflow.deployment_settings.deployment_method:
    shell.prefix(
        f'export PATH={shlex.quote(str(Path(sys.executable).parent))}:"$PATH"; '
    )
SETTINGS = ("scale", "seeds", "experiments", "results", "data", "pack")
# Of the site, from its profile.
SITE = ("gpus_per_node", "slurm_extra")
# What may be asked of the target "trained": it makes the runs that fulfil all of it.
CHOICES = ("experiment", "row", "method", "sparsity", "model", "dataset")
CHOICE = {key: config[key] for key in CHOICES if key in config}
# Snakemake reads what looks like a number as one.
SCALE = str(config.get("scale", "smoke"))
RESULTS_FOLDER = str(config.get("results", "results"))
EXPERIMENTS = str(config["experiments"]) if "experiments" in config else None
# Where data sets are looked for; jobs inherit it.
if "data" in config:
    os.environ.update(ACDC_DATA=str(Path(str(config["data"])).absolute()))
try:
    for key in config:
        if key not in SETTINGS + SITE + CHOICES:
            known = accepted(key, SETTINGS + SITE + CHOICES)
            raise ConfigError(f"--config: {key} is unknown; {known}")
    PACK, GPUS_PER_NODE = (
        resolve.whole_number(config.get(key, least), f"--config: {key}")
        for key, least in (("pack", 1), ("gpus_per_node", 8))
    )
    STUDY = resolve.load(SCALE, config.get("seeds"), EXPERIMENTS)
    CHOSEN = STUDY.select(**CHOICE)
    NODES = slurm.nodes(STUDY.gpus, GPUS_PER_NODE)
except ConfigError as error:
    sys.exit(f"error: {error}")

# Everything that a study writes lies below one folder.
FOLDER = f"{RESULTS_FOLDER}/{STUDY.scale.name}"


def results_of(runs):
    """Return the files that runs are finished with."""
    return [f"{FOLDER}/runs/{run}/result.json" for run in runs]


RESULTS = results_of(STUDY.runs)
TABLE_IDS = STUDY.ids("table")
FIGURE_IDS = STUDY.ids("figure")
THEORY_IDS = STUDY.ids("theory")
# By the experiments' names there; those without a figure are statements alone.
THEORY = STUDY.theory
THEORY_FIGURES = [name for name in THEORY if name not in WITHOUT_FIGURE]
TABLES = [
    f"{FOLDER}/tables/{table}.tex" for table in TABLE_IDS + ["theory"] * bool(THEORY)
]
FIGURES = [
    f"{FOLDER}/figures/{figure}.pdf"
    for figure in FIGURE_IDS + [f"theory_{name}" for name in THEORY_FIGURES]
]


REFUSED = []


def whole_study(wildcards):
    """Return nothing, or refuse to make tables of a study of which only some runs are chosen."""
    if CHOICE:
        REFUSED.append(wildcards)
        raise WorkflowError(
            f"error: --config: {', '.join(CHOICE)} choose what the rule trained makes; the "
            "target trained, alone, is accepted with them"
        )
    return []


def failures_of(runs):
    """Return how often runs have failed for good."""
    return sum(failures(Path(FOLDER, "runs", run)) for run in runs)


def study_folder(wildcards, output):
    """Return the folder of the study that a file belongs to."""
    return str(Path(*Path(output[0]).parts[: len(Path(FOLDER).parts)]))


def data_of(run):
    """Return the file that says that a run's data set is intact."""
    dataset = STUDY.runs[run].config["dataset"]
    return f"{FOLDER}/data/{dataset}.json"


def result_of_parent(wildcards):
    """Return the result of the run that a run starts from, if it does not start afresh."""
    parent = STUDY.runs[wildcards.run].parent
    return [f"{FOLDER}/runs/{parent}/result.json"] if parent else []


QUEUE = slurm.Queue(slurm.job_name(Path(FOLDER)))
# The rules whose jobs leave the results of runs.
TRAINING = ("train", "train_on_nodes", "unpack")


def slurm_extra(wildcards):
    """Return the site's options of sbatch, and that earlier jobs of the same run go first."""
    options = str(config.get("slurm_extra", ""))
    if not options or not workflow.is_main_process:
        return options
    (run,) = wildcards
    runs = PACKS.get(run, (run,))
    # The pack itself, and packs of a controller before this one that may have had the run.
    packs = {seed for seed in STUDY.seeds_of(run) if seed == run or seed not in PACKS}
    return slurm.after(options, QUEUE.of(runs, packs))


def sources(*patterns, package="reports"):
    """Return files of a package by pattern: what takes little time follows its makers."""
    return sorted(
        str(path) for pattern in patterns for path in Path(package).glob(pattern)
    )


def theory_outputs(chosen):
    """Return the files of some of the theory's experiments."""
    return [
        f"{FOLDER}/theory/{name}/{file}"
        for name in chosen
        for file in ("trials.csv", "series.csv", "statements.json", "provenance.json")
    ]


def names(found):
    """Return a regular expression that matches these names and no others."""
    return "|".join(found) or "none"


wildcard_constraints:
    dataset=names(STUDY.datasets),
    run="[A-Za-z0-9_.-]+",
    table=names(TABLE_IDS),
    figure=names(FIGURE_IDS),
    theory=names(THEORY),


def planned(rule, wildcard):
    """Return what a wildcard of a rule stands for in the jobs of this run."""
    jobs = workflow.dag.needrun_jobs(exclude_finished=False)
    return sorted(job.wildcards_dict[wildcard] for job in jobs if job.rule.name == rule)


def missing_data():
    """Return what to say of the data sets that this run needs and that are not there."""
    return STUDY.missing_data(planned("data", "dataset"))


onstart:
    # Before the first job, and not where somebody only looks at the plan.
    if workflow.is_main_process:
        if missing_data():
            sys.exit("\n".join(f"error: {sentence}" for sentence in missing_data()))
        try:
            suite.SoleSuite(Path(FOLDER)).enter()
            QUEUE.name_jobs(workflow.scheduler._executor)
        except SuiteError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(error.exit_status)


def conclude():
    """Say which of the runs of this time have failed for good; the next start tries them again."""
    runs = [run for rule in TRAINING for run in planned(rule, "run")]
    failed = suite.failed(Path(FOLDER), runs)
    for run, sentence in failed.items():
        logger.error(f"{run} has failed: {sentence}")
    if failed:
        sys.exit(
            f"error: {len(failed)} of {len(STUDY.runs)} runs have failed; tables and report show "
            "them as missing, and the same command tries them again"
        )


onsuccess:
    conclude()


onerror:
    # Not where somebody has stopped the suite, who does not want to wait for it.
    if not CHOICE and workflow.scheduler._user_kill is None:
        # What there is: a run that SLURM would not finish does not hold up the others' report.
        shell(
            "python -m reports all --results {FOLDER:q} --out {FOLDER:q}/partial > {FOLDER:q}/logs/partial.log 2>&1 || true"
        )
    conclude()


@atexit.register
def tell_the_cost():
    """End a dry run with what it costs, the last thing that is read."""
    planning = workflow.is_main_process and workflow.dryrun and not REFUSED
    if planning and workflow.dag is not None:
        from workflow.cost import closing_lines

        lines = closing_lines(
            STUDY,
            Path(RESULTS_FOLDER),
            [run for rule in TRAINING for run in planned(rule, "run")],
        )
        print("", *lines, *missing_data(), sep="\n", file=sys.stderr)
