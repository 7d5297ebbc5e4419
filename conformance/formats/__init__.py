"""One module a family of originals; each replays the files that its original's figures are in."""
