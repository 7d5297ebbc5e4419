# A job trains runs of one network on one data set (study/jobs.py). They resume from their checkpoints, and
# the receipt is the only declared output: Snakemake deletes the outputs of a job that it starts again.

from workflow import resources as requests

# Before the theory, which can wait: the time left is estimated from the speed of the training.
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
        "python -m acdc data check {wildcards.dataset} --manifest {output:q} > {log:q} 2>&1"


rule train:
    """Train the runs of a job, or resume them. A finished run is not trained again."""
    input:
        # Not as ancient(): where the producer of an ancient file runs again, Snakemake 9.27 leaves
        # out every job below it, also those whose outputs are missing.
        data=data_of,
        parents=parents_of,
    output:
        f"{FOLDER}/receipts/{{job}}.json",
    log:
        f"{FOLDER}/logs/train/{{job}}.log",
    wildcard_constraints:
        job=names(job for job in JOBS if job not in NODES),
    priority: TRAINING_FIRST
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        gpu=lambda wildcards: STUDY.gpus[wildcards.job],
        nodes=1,
        mem_mb=lambda wildcards: requests.TRAIN_MB * runs_at_once(wildcards.job),
        runtime=lambda wildcards: requests.TRAIN_MINUTES * len(JOBS[wildcards.job]),
        slurm_extra=slurm_extra,
    params:
        configs=lambda wildcards: [
            f"{FOLDER}/runs/{run}/config.yaml" for run in JOBS[wildcards.job]
        ],
        at_once=lambda wildcards: runs_at_once(wildcards.job),
    # The log is a link, since Snakemake deletes the log of a job that it starts again. Not the shell
    # but the run answers signals; it waits for a run that another job still trains. Where jobs share
    # the GPUs of one machine, each waits for its own.
    shell:
        "trap '' USR1 TERM; ln -sf {wildcards.job}.attempts.log {log:q};"
        " echo \"== $(date '+%F %T') $HOSTNAME ${{SLURM_JOB_ID-}}\" >> {log:q};"
        " ${{ACDC_GPUS:+python -m workflow.gpus {resources.gpu}}}"
        " python -m acdc train {params.configs:q} --receipt {output:q} --allow-failure --wait 86400"
        " --at-once {params.at_once} --processes {resources.gpu} --nodes {resources.nodes}"
        " --threads {threads} --workers {threads} >> {log:q} 2>&1"


use rule train as train_on_nodes with:
    wildcard_constraints:
        job=names(NODES),
    resources:
        gpu=lambda wildcards: STUDY.gpus[wildcards.job],
        nodes=lambda wildcards: NODES[wildcards.job],
        # One task per node, which is a torchrun; the executor leaves it to the job to start them.
        mpi="srun",
        tasks=lambda wildcards: NODES[wildcards.job],
        tasks_per_gpu=0,
        mem_mb=requests.TRAIN_MB,
        runtime=requests.TRAIN_MINUTES,
        # The same number on each node.
        slurm_extra=lambda wildcards: (
            f"{slurm_extra(wildcards)} --gpus-per-node="
            f"{STUDY.gpus[wildcards.job] // NODES[wildcards.job]}"
        ),
