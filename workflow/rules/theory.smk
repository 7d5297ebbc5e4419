# The theorems, checked on problems whose constants are known.


rule iht:
    """Stochastic iterative hard thresholding on sparse least squares."""
    output:
        f"{FOLDER}/theory/iht_curves.csv",
        f"{FOLDER}/theory/iht_summary.csv",
    log:
        f"{FOLDER}/logs/theory/iht.log",
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=30,
    shell:
        "OMP_NUM_THREADS={threads} OPENBLAS_NUM_THREADS={threads}"
        " {PYTHON} -m acdc theory iht --out $(dirname {output[0]}) > {log} 2>&1"
