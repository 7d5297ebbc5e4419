# The study that the configuration names, and the files that it consists of.

import atexit
import os
import shlex
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.logging import logger

from acdc.messages import config_error
from acdc.errors import ConfigError, SuiteError
from theory.layout import WITHOUT_FIGURE
from workflow import gpus, settings, signals, site, slurm, suite
from study import resolve
from study.jobs import possible_jobs, training_jobs

# The process that holds the study's folder for this Snakemake, if another one does.
HOLDER = os.environ.get(suite.HOLDER)
if not workflow.is_main_process:
    signals.pass_on()
elif HOLDER:
    signals.pass_on()
    signals.end_with(int(HOLDER))

# Jobs say "python": the one that runs Snakemake, or that of environment.yml with --sdm conda.
if not workflow.deployment_settings.deployment_method:
    shell.prefix(
        f'export PATH={shlex.quote(str(Path(sys.executable).parent))}:"$PATH"; '
    )
try:
    SETTINGS = settings.read_settings(config, workflow.config_settings.config_args)
    # Criteria of the target "trained".
    CHOICE = {key: SETTINGS[key] for key in settings.CHOICES if key in SETTINGS}
    SCALE, RESULTS_FOLDER = SETTINGS["scale"], SETTINGS["results"]
    # Seeds of a configuration that a job trains at once; None: its runs follow one another.
    PACK = SETTINGS.get("pack")
    RESOLVED = (SCALE, SETTINGS.get("seeds"), SETTINGS.get("experiments"))
    # The folder of the data sets; jobs inherit it.
    if "data" in SETTINGS:
        os.environ.update(ACDC_DATA=str(Path(SETTINGS["data"]).absolute()))
    STUDY = resolve.load(*RESOLVED)
    CHOSEN = STUDY.select(**CHOICE)
    NODES = slurm.nodes(STUDY.gpus, SETTINGS["gpus_per_node"])
    # On one machine no more jobs start than there are GPUs for.
    if workflow.is_main_process and site.is_local():
        GPUS = gpus.share(SETTINGS.get("gpus"))
        if GPUS and "gpu" not in workflow.global_resources:
            workflow.register_resource("gpu", GPUS)
except ConfigError as error:
    sys.exit(f"error: {error}")

# Everything that a study writes is below one folder.
FOLDER = f"{RESULTS_FOLDER}/{STUDY.scale.name}"
# The runs of each training job, which is named after the first of them.
JOBS = training_jobs(STUDY, PACK, CHOSEN)
POSSIBLE = possible_jobs(STUDY)
JOB_OF = {run: job for job, runs in JOBS.items() for run in runs}
if workflow.is_main_process:
    suite.drop_receipts(Path(FOLDER), JOBS)
    suite.drop_tracking(Path(FOLDER))


def receipts_of(runs):
    """Return the receipts of the jobs that train some runs, of which those chosen count."""
    jobs = dict.fromkeys(JOB_OF[run] for run in runs if run in JOB_OF)
    return [f"{FOLDER}/receipts/{job}.json" for job in jobs]


RECEIPTS = receipts_of(STUDY.runs)
TABLE_IDS = STUDY.ids("table")
FIGURE_IDS = STUDY.ids("figure")
# By the experiments' names there; those without a figure have statements only.
THEORY = STUDY.theory
THEORY_FIGURES = [name for name in THEORY if name not in WITHOUT_FIGURE]
TABLES = [
    f"{FOLDER}/tables/{table}.tex" for table in TABLE_IDS + ["theory"] * bool(THEORY)
]
FIGURES = [
    f"{FOLDER}/figures/{figure}.pdf"
    for figure in FIGURE_IDS + [f"theory_{name}" for name in THEORY_FIGURES]
]


# The experiments that compare the outputs of pairs of models.
COMPARED = [experiment.id for experiment in STUDY.experiments if experiment.pairs]


def agreements_of(experiments):
    """Return the files with the comparisons of some experiments, which not all of them have."""
    return [
        f"{FOLDER}/agreement/{name}.json" for name in experiments if name in COMPARED
    ]


REFUSED = []


def whole_study(wildcards):
    """Return nothing, or refuse to make tables of a study of which only some runs are chosen."""
    if CHOICE:
        REFUSED.append(wildcards)
        key = f"--config {', '.join(CHOICE)}"
        raise WorkflowError(
            f"error: {config_error(key, None, 'selects runs only', 'with the target trained')}"
        )
    return []


def theory_outputs(chosen):
    """Return the files of some of the theory's experiments."""
    return [
        f"{FOLDER}/theory/{name}/{file}"
        for name in chosen
        for file in ("trials.csv", "series.csv", "statements.json", "provenance.json")
    ]


def sources(*patterns):
    """Return files of the theory by pattern; its experiments follow their code."""
    return sorted(str(path) for each in patterns for path in Path("theory").glob(each))


def runs_at_once(job):
    """Return how many runs of a job share its GPU at a time."""
    return len(JOBS[job]) if PACK else 1


def data_of(wildcards):
    """Return the file that says that the data set of a job is intact."""
    dataset = STUDY.runs[wildcards.job].config["dataset"]
    return f"{FOLDER}/data/{dataset}.json"


def parents_of(wildcards):
    """Return the receipts of the runs of other jobs that a job's runs start from."""
    runs = JOBS[wildcards.job]
    parents = (STUDY.runs[run].parent for run in runs)
    return receipts_of(parent for parent in parents if parent not in runs)


def slurm_extra(wildcards):
    """Return the site's options of sbatch; earlier jobs of the same runs have to end first."""
    options = SETTINGS.get("slurm_extra", "")
    if not options or not workflow.is_main_process:
        return options
    # Jobs of an earlier controller, which may have had another pack.
    known = {job for run in JOBS[wildcards.job] for job in POSSIBLE[run]}
    return slurm.after(options, QUEUE.of(sorted(known)))


def names(found):
    """Return a regular expression that matches these names and no others."""
    return "|".join(found) or "none"


wildcard_constraints:
    dataset=names(STUDY.datasets),
    job="[A-Za-z0-9_.-]+",
    table=names(TABLE_IDS),
    figure=names(FIGURE_IDS),
    compared=names(COMPARED),
    theory=names(THEORY),


def planned(rule, wildcard):
    """Return the values of a wildcard in the planned jobs of a rule."""
    jobs = workflow.dag.needrun_jobs(exclude_finished=False)
    return sorted(job.wildcards_dict[wildcard] for job in jobs if job.rule.name == rule)


def planned_runs():
    """Return the runs of the planned training jobs."""
    jobs = (job for rule in TRAINING for job in planned(rule, "job"))
    return [run for job in jobs for run in JOBS[job]]


def missing_data():
    """Return messages about data sets that are needed and missing."""
    return STUDY.missing_data(planned("data", "dataset"))


QUEUE = slurm.Queue(slurm.job_name(Path(FOLDER)))
TRAINING = ("train", "train_on_nodes")


onstart:
    # Before the first job, and not in a dry run.
    if workflow.is_main_process:
        if missing_data():
            sys.exit("\n".join(f"error: {message}" for message in missing_data()))
        try:
            if not HOLDER:
                suite.SoleSuite(Path(FOLDER)).enter()
            QUEUE.begin(workflow.scheduler._executor)
            suite.write_configs(
                Path(FOLDER), {run: STUDY.runs[run] for run in planned_runs()}
            )
        except SuiteError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(error.exit_status)


def conclude():
    """Exit with an error that names the runs that failed; the next start retries them."""
    failed = suite.failed(Path(FOLDER), planned_runs())
    for run, error in failed.items():
        logger.error(f"{run} has failed: {error}")
    if failed:
        sys.exit(
            f"error: {len(failed)} of {len(STUDY.runs)} runs have failed; tables and report show "
            "them as missing. Rerun the same command to retry them"
        )


onsuccess:
    conclude()


onerror:
    # Not after an interruption: the user does not want to wait.
    if not CHOICE and workflow.scheduler._user_kill is None:
        # What there is: one run that cannot be finished does not hold up the others' report.
        shell(
            "python -m reports all --results {FOLDER:q} --out {FOLDER:q}/partial"
            " > {FOLDER:q}/logs/partial.log 2>&1 || true"
        )
    conclude()


@atexit.register
def conclude_dry_run():
    """End a dry run with its cost, the last thing that is read, or leave the site for doctor."""
    planning = workflow.is_main_process and workflow.dryrun and not REFUSED
    if not planning or workflow.dag is None:
        return
    if site.REPORT in os.environ:
        jobs = list(workflow.dag.needrun_jobs(exclude_finished=False))
        jobs = [
            job
            for rule in (*TRAINING, "theory")
            for job in jobs
            if job.rule.name == rule
        ]
        about = {"study": RESOLVED, "results": RESULTS_FOLDER}
        about["data"] = os.environ.get("ACDC_DATA")
        site.write_site(SETTINGS, jobs, os.environ[site.REPORT], **about)
    else:
        from workflow.plan import closing_lines

        lines = closing_lines(STUDY, Path(RESULTS_FOLDER), planned_runs())
        print("", *lines, *missing_data(), sep="\n", file=sys.stderr)
