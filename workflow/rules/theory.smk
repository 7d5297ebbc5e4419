# The theorems, checked on problems whose constants are known.

from workflow import requests


rule iht:
    """Stochastic iterative hard thresholding on sparse least squares."""
    output:
        curves=f"{FOLDER}/theory/iht_curves.csv",
        summary=f"{FOLDER}/theory/iht_summary.csv",
    log:
        f"{FOLDER}/logs/theory/iht.log",
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=requests.IHT_MB,
        runtime=requests.IHT_MINUTES,
    shell:
        "OMP_NUM_THREADS={threads} OPENBLAS_NUM_THREADS={threads}"
        " python -m acdc theory iht --out $(dirname {output.curves:q}) > {log:q} 2>&1"
