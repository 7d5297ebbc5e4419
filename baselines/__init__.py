"""The methods that AC/DC is compared with, one file each, named after its SparseMethod."""
