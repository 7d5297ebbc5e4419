"""AC/DC and all that sparse-training methods share: masks, schedules, FLOPs, the training loop."""
