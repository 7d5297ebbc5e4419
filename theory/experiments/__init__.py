"""The experiments of the theory, one a module; see theory.experiment."""
