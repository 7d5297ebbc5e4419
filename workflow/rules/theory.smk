# The theorems, checked on problems whose constants are known.

import json

from workflow import resources as requests

THEORY_SOURCES = sources("*.py", "problems/*.py")


rule theory:
    """One experiment: its trials, the series of its figure, and the verdicts of its statements."""
    input:
        THEORY_SOURCES,
        lambda wildcards: sources(f"experiments/{wildcards.theory}.*"),
    output:
        trials=f"{FOLDER}/theory/{{theory}}/trials.csv",
        series=f"{FOLDER}/theory/{{theory}}/series.csv",
        statements=f"{FOLDER}/theory/{{theory}}/statements.json",
        provenance=f"{FOLDER}/theory/{{theory}}/provenance.json",
    log:
        f"{FOLDER}/logs/theory/{{theory}}.log",
    # An error would recur; a lost node would not.
    retries: 2
    # One job of SLURM, as its profile says.
    group:
        "theory"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        theory=1,
        mem_mb=requests.THEORY_MB,
        runtime=requests.THEORY_MINUTES,
    params:
        folder=lambda wildcards, output: str(Path(output.statements).parent),
        settings=lambda wildcards: [
            word
            for key, value in STUDY.theory[wildcards.theory].items()
            for word in ("--set", f"{key}={json.dumps(value)}")
        ],
    shell:
        "OMP_NUM_THREADS={threads} OPENBLAS_NUM_THREADS={threads}"
        " python -m theory run {wildcards.theory} --out {params.folder:q}"
        " {params.settings:q} > {log:q} 2>&1"
