# The whole suite as one DAG: data, training, theory, tables, figures, report, tracking.
#
#   snakemake -c2                               here, at smoke scale
#   snakemake -c2 --config scale=quick          a part of it on the digits
#   snakemake --profile slurm                   on a cluster, at the paper's scale
#   snakemake --profile slurm table05 figure03  these only, and the runs that they need
#
# Scales are in workflow/scales, experiments in workflow/experiments; docs/cluster.md has the rest.

from snakemake.utils import min_version

min_version("9.10")


include: "workflow/rules/common.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/theory.smk"
include: "workflow/rules/report.smk"


rule all:
    default_target: True
    input:
        f"{FOLDER}/report.html",
        f"{FOLDER}/tracking.txt",
        TABLES,
        FIGURES,
        # Else a removed receipt would not be missed while the tables are there.
        RECEIPTS,
    localrule: True


# Runs only: all, or those that --config method=..., row=..., experiment=... and others select.
rule trained:
    input:
        receipts_of(CHOSEN),
    localrule: True


# One of the largest jobs of each kind, of which acdc doctor asks whether SLURM would accept it.
_LARGEST = {
    STUDY.gpus[job]: job for job in sorted(JOBS, key=lambda job: len(JOBS[job]))
}


rule requests:
    input:
        receipts_of(_LARGEST.values()),
        theory_outputs(THEORY),
    localrule: True


# Each table and each figure by its name.
for _table in TABLE_IDS:

    rule:
        name:
            _table
        input:
            f"{FOLDER}/tables/{_table}.tex",
            receipts_of(STUDY.experiment(_table).runs),
        localrule: True


for _figure in FIGURE_IDS:

    rule:
        name:
            _figure
        input:
            f"{FOLDER}/figures/{_figure}.pdf",
            receipts_of(STUDY.experiment(_figure).runs),
        localrule: True


for _name in THEORY:

    rule:
        name:
            f"theory_{_name}"
        input:
            theory_outputs([_name]),
            [f"{FOLDER}/figures/theory_{_name}.pdf"] if _name in THEORY_FIGURES else [],
        localrule: True
