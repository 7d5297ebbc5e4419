# One job a run. A run resumes from its checkpoints, which are therefore no declared outputs:
# Snakemake deletes the outputs of a job that it starts again.

# By the first of their runs; the results folder of the others is filled by the same job.
PACKS = STUDY.packs(PACK) if PACK > 1 else {}
PACKED = {run: pack for pack, runs in PACKS.items() for run in runs}
# By run, where there are several.
NODES = {
    run: math.ceil(gpus / GPUS_PER_NODE)
    for run, gpus in STUDY.gpus.items()
    if gpus > GPUS_PER_NODE
}


rule data:
    """Verify a data set's files against their checksums."""
    output:
        f"{FOLDER}/data/{{dataset}}.json",
    log:
        f"{FOLDER}/logs/data/{{dataset}}.log",
    retries: 0
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
    wildcard_constraints:
        run=names(run for run in STUDY.runs if run not in {**PACKED, **NODES}),
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        gpu=lambda wildcards: STUDY.gpus[wildcards.run],
        nodes=1,
        mem_mb=2000,
        runtime=60,
        slurm_extra=slurm_extra,
        # An error that is bound to recur ends further attempts at once.
        attempt=lambda wildcards, attempt: attempt,
    params:
        folder=study_folder,
        configuration=lambda wildcards: STUDY.runs[wildcards.run].canonical_json(),
    shell:
        "python -m acdc train --json {params.configuration:q} --runs {params.folder:q}/runs"
        " --processes {resources.gpu} --nodes {resources.nodes}"
        " --threads {threads} --workers {threads} --wait 900"
        " --attempt {resources.attempt} --settle --logs {params.folder:q}/logs/train"
        " > {log:q} 2>&1"


use rule train as train_on_nodes with:
    wildcard_constraints:
        run=names(NODES),
    resources:
        gpu=lambda wildcards: STUDY.gpus[wildcards.run],
        nodes=lambda wildcards: NODES[wildcards.run],
        # One task a node, which is a torchrun; the executor leaves it to the job to start them.
        mpi="srun",
        tasks=lambda wildcards: NODES[wildcards.run],
        tasks_per_gpu=0,
        mem_mb=2000,
        runtime=60,
        slurm_extra=slurm_extra,
        attempt=lambda wildcards, attempt: attempt,


rule pack:
    """Train runs that differ in their seeds side by side on one GPU (--config pack=N)."""
    input:
        data=lambda wildcards: f"{FOLDER}/data/{STUDY.runs[wildcards.pack].dataset}.json",
        parents=lambda wildcards: results_of(
            dict.fromkeys(filter(None, map(STUDY.parent, PACKS[wildcards.pack])))
        ),
    output:
        touch(f"{FOLDER}/packs/{{pack}}.done"),
    log:
        f"{FOLDER}/logs/packs/{{pack}}.log",
    wildcard_constraints:
        pack=names(PACKS),
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        gpu=1,
        mem_mb=lambda wildcards: 2000 * len(PACKS[wildcards.pack]),
        runtime=lambda wildcards: 60 * len(PACKS[wildcards.pack]),
        slurm_extra=slurm_extra,
        attempt=lambda wildcards, attempt: attempt,
    params:
        folder=study_folder,
        configuration=lambda wildcards: STUDY.runs[wildcards.pack].canonical_json(),
        seeds=lambda wildcards: ",".join(
            str(STUDY.runs[run].seed) for run in PACKS[wildcards.pack]
        ),
        at_once=lambda wildcards: len(PACKS[wildcards.pack]),
    shell:
        "python -m acdc train --json {params.configuration:q} --runs {params.folder:q}/runs"
        " --seeds {params.seeds} --at-once {params.at_once}"
        " --threads {threads} --workers {threads} --wait 900"
        " --attempt {resources.attempt} --settle --logs {params.folder:q}/logs/train"
        " > {log:q} 2>&1"


rule unpack:
    """The result of a run of a pack, which has been trained: Snakemake has just removed it."""
    input:
        lambda wildcards: f"{FOLDER}/packs/{PACKED[wildcards.run]}.done",
    output:
        f"{FOLDER}/runs/{{run}}/result.json",
    log:
        f"{FOLDER}/logs/unpack/{{run}}.log",
    wildcard_constraints:
        run=names(PACKED),
    localrule: True
    conda:
        "../../environment.yml"
    params:
        folder=study_folder,
        configuration=lambda wildcards: STUDY.runs[wildcards.run].canonical_json(),
    shell:
        "python -m acdc train --json {params.configuration:q} --runs {params.folder:q}/runs"
        " --attempt 2 --settle > {log:q} 2>&1"
