"""The methods that AC/DC is compared with, one file each, each a SparseMethod of the file's name."""
