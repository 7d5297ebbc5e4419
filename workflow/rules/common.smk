# The study that the configuration names, and the files that it consists of.

import shlex
import sys
from pathlib import Path

from acdc.errors import ConfigError
from workflow import study as studies

# Jobs say "python": the one that runs Snakemake, or that of environment.yml with --sdm conda.
if not workflow.deployment_settings.deployment_method:
    shell.prefix(
        f'export PATH={shlex.quote(str(Path(sys.executable).parent))}:"$PATH"; '
    )

try:
    STUDY = studies.load(config.get("scale", "smoke"))
except ConfigError as error:
    sys.exit(f"error: {error}")

# Everything that a study writes lies below one folder.
FOLDER = f"{config.get('results', 'results')}/{STUDY.scale.name}"
RESULTS = [f"{FOLDER}/runs/{run}/result.json" for run in STUDY.runs]
TABLES = [f"{FOLDER}/tables/{table}.tex" for table in STUDY.ids("accuracy_table")]
FIGURE_IDS = STUDY.ids("flops_accuracy", "schedule_curve", "iht")
FIGURES = [f"{FOLDER}/figures/{figure}.pdf" for figure in FIGURE_IDS]


def study_folder(wildcards, output):
    """Return the folder of the study that a file belongs to."""
    return str(Path(*Path(output[0]).parts[: len(Path(FOLDER).parts)]))


def result_of_parent(wildcards):
    """Return the result of the run that a run starts from, if it does not start afresh."""
    parent = STUDY.parent(wildcards.run)
    return [f"{FOLDER}/runs/{parent}/result.json"] if parent else []


def sources(*patterns):
    """Return files of reports/ by pattern: what is made from results follows its makers."""
    return sorted(
        str(path) for pattern in patterns for path in Path("reports").glob(pattern)
    )


wildcard_constraints:
    dataset="|".join(STUDY.datasets),
    run="[A-Za-z0-9_.-]+",
    table="|".join(STUDY.ids("accuracy_table")) or "none",
    figure="|".join(FIGURE_IDS) or "none",
