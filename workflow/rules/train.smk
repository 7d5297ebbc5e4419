# One job a run. A run resumes from its checkpoints, which are therefore no declared outputs:
# Snakemake deletes the outputs of a job that it starts again.

import json

from workflow import resources as requests

# By the first of their runs; the results folder of the others is filled by the same job.
PACKS = {pack: runs for pack, runs in STUDY.jobs(PACK).items() if len(runs) > 1}
PACKED = {run: pack for pack, runs in PACKS.items() for run in runs}
if workflow.is_main_process:
    # A pack of which a run's folder was removed has to be trained again.
    for pack, runs in PACKS.items():
        if not all(Path(FOLDER, "runs", run, SPARE).exists() for run in runs):
            Path(FOLDER, "packs", f"{pack}.done").unlink(missing_ok=True)
# The run answers what SLURM announces, not the shell around it. What is said before there is a log
# of the attempt (acdc/attempts.py) is kept, too. It may have to wait for a day, as long as a job may
# last, since whoever trains the same run may live on a node that SLURM has lost.
TRAIN = (
    "trap '' USR1 TERM; mkdir -p {{params.logs:q}}; touch {{params.logs:q}}/started.log;"
    " ln -f {{params.logs:q}}/started.log {{log:q}} || true;"
    " python -m acdc train --json {{params.configuration:q}} --runs {{params.folder:q}}/runs {}"
    " --threads {{threads}} --workers {{threads}} --wait 86400"
    " --attempt {{resources.attempt}} --settle --logs {{params.folder:q}}/logs/train"
    " >> {{params.logs:q}}/started.log 2>&1"
)

# Before the theory, which can wait: the time left is told by the speed of the training.
TRAINING_FIRST = 1


rule data:
    """Verify a data set's files against their checksums."""
    output:
        f"{FOLDER}/data/{{dataset}}.json",
    log:
        f"{FOLDER}/logs/data/{{dataset}}.log",
    priority: TRAINING_FIRST
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
        data=lambda wildcards: data_of(wildcards.run),
        parent=result_of_parent,
    output:
        f"{FOLDER}/runs/{{run}}/result.json",
    log:
        f"{FOLDER}/logs/train/{{run}}.log",
    wildcard_constraints:
        run=names(run for run in STUDY.runs if run not in {**PACKED, **NODES}),
    priority: TRAINING_FIRST
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        gpu=lambda wildcards: STUDY.gpus[wildcards.run],
        nodes=1,
        mem_mb=requests.TRAIN_MB,
        runtime=requests.TRAIN_MINUTES,
        slurm_extra=slurm_extra,
        # An error that is bound to recur ends further attempts at once.
        attempt=lambda wildcards, attempt: attempt,
    params:
        folder=study_folder,
        configuration=lambda wildcards: json.dumps(STUDY.runs[wildcards.run].config),
        logs=lambda wildcards: f"{FOLDER}/logs/train/{wildcards.run}",
        # Where a run has failed for good since its job, the next start of the suite tries it again.
        failures=lambda wildcards: failures_of([wildcards.run]),
    shell:
        TRAIN.format("--processes {resources.gpu} --nodes {resources.nodes}")


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
        mem_mb=requests.TRAIN_MB,
        runtime=requests.TRAIN_MINUTES,
        # The same number on each node.
        slurm_extra=lambda wildcards: (
            f"{slurm_extra(wildcards)} --gpus-per-node="
            f"{STUDY.gpus[wildcards.run] // NODES[wildcards.run]}"
        ),
        attempt=lambda wildcards, attempt: attempt,


rule pack:
    """Train runs that differ in their seeds side by side on one GPU (--config pack=N)."""
    input:
        data=lambda wildcards: data_of(wildcards.pack),
        parents=lambda wildcards: results_of(
            dict.fromkeys(
                filter(None, (STUDY.runs[run].parent for run in PACKS[wildcards.pack]))
            )
        ),
    output:
        touch(f"{FOLDER}/packs/{{pack}}.done"),
    log:
        f"{FOLDER}/logs/packs/{{pack}}.log",
    wildcard_constraints:
        pack=names(PACKS),
    priority: TRAINING_FIRST
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        gpu=1,
        mem_mb=lambda wildcards: requests.TRAIN_MB * len(PACKS[wildcards.pack]),
        runtime=lambda wildcards: requests.TRAIN_MINUTES * len(PACKS[wildcards.pack]),
        slurm_extra=slurm_extra,
        attempt=lambda wildcards, attempt: attempt,
    params:
        folder=study_folder,
        configuration=lambda wildcards: json.dumps(STUDY.runs[wildcards.pack].config),
        seeds=lambda wildcards: ",".join(
            str(STUDY.runs[run].config["seed"]) for run in PACKS[wildcards.pack]
        ),
        at_once=lambda wildcards: len(PACKS[wildcards.pack]),
        logs=lambda wildcards: f"{FOLDER}/logs/packs/{wildcards.pack}",
        failures=lambda wildcards: failures_of(PACKS[wildcards.pack]),
    shell:
        TRAIN.format("--seeds {params.seeds} --at-once {params.at_once}")


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
    retries: 0
    localrule: True
    conda:
        "../../environment.yml"
    params:
        folder=study_folder,
    shell:
        "python -m acdc restore {params.folder:q}/runs/{wildcards.run} > {log:q} 2>&1"
