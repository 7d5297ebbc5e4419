# The whole suite as one DAG: data, training, theory, tables, figures, report, tracking.
#
#   snakemake -c2                               here, at smoke scale
#   snakemake -c2 --config scale=quick          the same on the digits
#   snakemake --profile slurm                   on a cluster
#
# Scales are in workflow/scales, experiments in workflow/experiments.

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
    localrule: True


# Only the runs, without anything made from them.
rule trained:
    input:
        RESULTS,
    localrule: True
