"""``acdc doctor``: what a cluster, its file system and this environment have, before a job runs."""
