"""Measurements that are run by hand: speed and memory of what training does often."""
