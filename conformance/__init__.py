"""Conformance: replays figures that the methods' original code printed, and compares ours."""
