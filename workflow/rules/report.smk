# From results to tidy tables, from these to tables, figures and the report; and the copy in MLflow.

# What takes seconds follows the code that makes it.
REPORTS = [
    str(path)
    for package in ("reports", "study")
    for path in sorted(Path(package).rglob("*"))
    if path.suffix in (".py", ".j2", ".css", ".csv")
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
        scale=SCALE,
        options=[
            part
            for key in ("seeds", "experiments")
            if key in config
            for part in (f"--{key}", str(config[key]))
        ],
    shell:
        "python -m workflow study {params.scale:q} {params.options:q} --out {output:q} > {log:q} 2>&1"


rule aggregate:
    """Gather every run's result and journal into tidy tables."""
    input:
        f"{FOLDER}/study.json",
        RECEIPTS,
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
        folder=study_folder,
    shell:
        "python -m reports aggregate --results {params.folder:q} > {log:q} 2>&1"


rule table:
    """One table, as LaTeX and as data, from its own runs."""
    input:
        f"{FOLDER}/study.json",
        lambda wildcards: receipts_of(STUDY.experiment(wildcards.table).runs),
        REPORTS,
    output:
        multiext(f"{FOLDER}/tables/{{table}}", ".tex", ".csv", ".json"),
    log:
        f"{FOLDER}/logs/tables/{{table}}.log",
    retries: 0
    localrule: True
    conda:
        "../../environment.yml"
    params:
        folder=study_folder,
    shell:
        "python -m reports table {wildcards.table} --results {params.folder:q} > {log:q} 2>&1"


rule figure:
    """One figure, from its own runs."""
    input:
        f"{FOLDER}/study.json",
        lambda wildcards: receipts_of(STUDY.experiment(wildcards.figure).runs),
        REPORTS,
    output:
        multiext(f"{FOLDER}/figures/{{figure}}", ".pdf", ".png", ".svg"),
    log:
        f"{FOLDER}/logs/figures/{{figure}}.log",
    retries: 0
    localrule: True
    conda:
        "../../environment.yml"
    params:
        folder=study_folder,
    shell:
        "python -m reports figure {wildcards.figure} --results {params.folder:q} > {log:q} 2>&1"


rule theory_figure:
    """One figure of the theory."""
    input:
        f"{FOLDER}/study.json",
        rules.theory.output.series,
        REPORTS,
    output:
        multiext(f"{FOLDER}/figures/theory_{{theory}}", ".pdf", ".png", ".svg"),
    log:
        f"{FOLDER}/logs/figures/theory_{{theory}}.log",
    wildcard_constraints:
        theory=names(THEORY_FIGURES),
    retries: 0
    localrule: True
    conda:
        "../../environment.yml"
    params:
        folder=study_folder,
    shell:
        "python -m reports figure theory_{wildcards.theory} --results {params.folder:q} > {log:q} 2>&1"


rule statements:
    """The theory's statements in one table: predicted, measured, and whether they hold."""
    input:
        f"{FOLDER}/study.json",
        expand(rules.theory.output.statements, theory=THEORY),
        REPORTS,
        sources("statistics.py", "statements.py"),
    output:
        multiext(f"{FOLDER}/tables/theory", ".tex", ".csv", ".json"),
    log:
        f"{FOLDER}/logs/tables/theory.log",
    retries: 0
    localrule: True
    conda:
        "../../environment.yml"
    params:
        folder=study_folder,
    shell:
        "python -m reports statements --results {params.folder:q} > {log:q} 2>&1"


rule report:
    """One self-contained page with all of it."""
    input:
        f"{FOLDER}/tables/runs.parquet",
        TABLES,
        FIGURES,
        theory_outputs(THEORY),
        REPORTS,
    output:
        f"{FOLDER}/report.html",
        f"{FOLDER}/tables/methods_appendix.tex",
        [f"{FOLDER}/tables/theory_chapter.tex"] * bool(THEORY),
    log:
        f"{FOLDER}/logs/report.log",
    retries: 0
    localrule: True
    conda:
        "../../environment.yml"
    params:
        folder=study_folder,
    shell:
        "python -m reports report --results {params.folder:q} > {log:q} 2>&1"


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
        folder=study_folder,
    shell:
        "python -m tracking {params.folder:q} --lenient > {output:q} 2> {log:q}"
