# One job a run. A run resumes from its checkpoints, which are therefore no declared outputs:
# Snakemake deletes the outputs of a job that it starts again.


rule data:
    """Verify a data set's files against their checksums."""
    output:
        f"{FOLDER}/data/{{dataset}}.json",
    log:
        f"{FOLDER}/logs/data/{{dataset}}.log",
    localrule: True
    conda:
        "../../environment.yml"
    shell:
        "python -m acdc data verify {wildcards.dataset} --manifest {output:q} > {log:q} 2>&1"


rule train:
    """Train one run, or go on with it. Its name holds the fingerprint of its configuration."""
    input:
        # Not as ancient(): where the producer of an ancient file runs again, Snakemake 9.27 leaves
        # out every job below it, also those whose outputs are missing.
        data=lambda wildcards: f"{FOLDER}/data/{STUDY.runs[wildcards.run].dataset}.json",
        parent=result_of_parent,
    output:
        f"{FOLDER}/runs/{{run}}/result.json",
    log:
        f"{FOLDER}/logs/train/{{run}}.log",
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=60,
        # An error that is bound to recur ends further attempts at once.
        attempt=lambda wildcards, attempt: attempt,
    params:
        folder=study_folder,
        configuration=lambda wildcards: STUDY.runs[wildcards.run].canonical_json(),
    shell:
        "python -m acdc train --json {params.configuration:q} --runs {params.folder:q}/runs"
        " --threads {threads} --workers {threads} --wait 900"
        " --attempt {resources.attempt} --allow-divergence > {log:q} 2>&1"
