# From results to tidy tables, from these to tables, figures and the report; and the copy in MLflow.

# What takes seconds follows the code that makes it.
REPORTS = [
    str(path)
    for package in ("reports", "study")
    for path in sorted(Path(package).rglob("*"))
    if path.suffix in (".py", ".j2", ".css", ".csv", ".yaml")
]


rule study:
    """Write down what the study consists of, for the reports."""
    input:
        whole_study,
    output:
        f"{FOLDER}/study.json",
    log:
        f"{FOLDER}/logs/study.log",
    retries: 0
    localrule: True
    conda:
        "../../environment.yml"
    params:
        digest=STUDY.digest,
        arguments=["study", SCALE, *STUDY.arguments[2:], "--out"],
    shell:
        "python -m workflow {params.arguments:q} {output:q} > {log:q} 2>&1"


rule pairs:
    """Compare the outputs of an experiment's pairs of a sparse and a dense model."""
    input:
        lambda wildcards: receipts_of(STUDY.experiment(wildcards.compared).runs),
    output:
        f"{FOLDER}/agreement/{{compared}}.json",
    log:
        f"{FOLDER}/logs/agreement/{{compared}}.log",
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        gpu=1,
        mem_mb=requests.TRAIN_MB,
        runtime=requests.TRAIN_MINUTES,
    params:
        pairs=lambda wildcards: [
            f"{FOLDER}/runs/{run}"
            for pair in STUDY.experiment(wildcards.compared).pairs
            for run in pair
        ],
    shell:
        "${{ACDC_GPUS:+python -m workflow.gpus {resources.gpu}}}"
        " python -m acdc agreement {params.pairs:q} --lenient --out {output:q} > {log:q} 2>&1"


rule aggregate:
    """Gather every run's result and journal into tidy tables."""
    input:
        f"{FOLDER}/study.json",
        RECEIPTS,
        agreements_of(COMPARED),
        REPORTS,
    output:
        multiext(f"{FOLDER}/tables/runs", ".parquet", ".csv"),
        multiext(f"{FOLDER}/tables/epochs", ".parquet", ".csv"),
        multiext(f"{FOLDER}/tables/events", ".parquet", ".csv"),
    log:
        f"{FOLDER}/logs/aggregate.log",
    retries: 0
    localrule: True
    conda:
        "../../environment.yml"
    params:
        arguments=["aggregate", "--results", FOLDER],
    shell:
        "python -m reports {params.arguments:q} > {log:q} 2>&1"


# Rules that use another do not inherit its localrule.


# One table, as LaTeX and as data, from its own runs.
use rule aggregate as table with:
    input:
        f"{FOLDER}/study.json",
        lambda wildcards: receipts_of(STUDY.experiment(wildcards.table).runs),
        lambda wildcards: agreements_of([wildcards.table]),
        REPORTS,
    output:
        multiext(f"{FOLDER}/tables/{{table}}", ".tex", ".csv", ".json"),
    log:
        f"{FOLDER}/logs/tables/{{table}}.log",
    localrule: True
    params:
        arguments=lambda wildcards: ["table", wildcards.table, "--results", FOLDER],


# One figure, from its own runs.
use rule aggregate as figure with:
    input:
        f"{FOLDER}/study.json",
        lambda wildcards: receipts_of(STUDY.experiment(wildcards.figure).runs),
        lambda wildcards: agreements_of([wildcards.figure]),
        REPORTS,
    output:
        multiext(f"{FOLDER}/figures/{{figure}}", ".pdf", ".png", ".svg"),
    log:
        f"{FOLDER}/logs/figures/{{figure}}.log",
    localrule: True
    params:
        arguments=lambda wildcards: ["figure", wildcards.figure, "--results", FOLDER],


# One figure of the theory.
use rule figure as theory_figure with:
    input:
        f"{FOLDER}/study.json",
        f"{FOLDER}/theory/{{theory}}/series.csv",
        REPORTS,
    output:
        multiext(f"{FOLDER}/figures/theory_{{theory}}", ".pdf", ".png", ".svg"),
    log:
        f"{FOLDER}/logs/figures/theory_{{theory}}.log",
    wildcard_constraints:
        theory=names(THEORY_FIGURES),
    localrule: True
    params:
        arguments=lambda wildcards: [
            *("figure", f"theory_{wildcards.theory}", "--results", FOLDER)
        ],


# The theory's statements in one table: predicted, measured, and whether they hold.
use rule aggregate as statements with:
    input:
        f"{FOLDER}/study.json",
        expand(f"{FOLDER}/theory/{{theory}}/statements.json", theory=THEORY),
        REPORTS,
        sources("statistics.py", "statements.py"),
    output:
        multiext(f"{FOLDER}/tables/theory", ".tex", ".csv", ".json"),
    log:
        f"{FOLDER}/logs/tables/theory.log",
    localrule: True
    params:
        arguments=["statements", "--results", FOLDER],


# One self-contained page with all of it, which opens with the verdicts on the paper's claims.
use rule aggregate as report with:
    input:
        f"{FOLDER}/tables/runs.parquet",
        TABLES,
        FIGURES,
        theory_outputs(THEORY),
        REPORTS,
    output:
        f"{FOLDER}/report.html",
        multiext(f"{FOLDER}/tables/claims", ".csv", ".tex"),
        f"{FOLDER}/tables/methods_appendix.tex",
        [f"{FOLDER}/tables/theory_chapter.tex"] * bool(THEORY),
    log:
        f"{FOLDER}/logs/report.log",
    localrule: True
    params:
        arguments=["report", "--results", FOLDER],


rule track:
    """Send every run, and the tables and figures, to MLflow."""
    input:
        RECEIPTS,
        rules.report.output,
        TABLES,
        FIGURES,
    output:
        f"{FOLDER}/tracking.txt",
    log:
        f"{FOLDER}/logs/track.log",
    retries: 0
    localrule: True
    conda:
        "../../environment.yml"
    params:
        arguments=[FOLDER, "--lenient"],
    shell:
        "python -m workflow sync {params.arguments:q} > {output:q} 2> {log:q}"
