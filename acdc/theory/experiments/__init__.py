"""The experiments of the theory, one a module; see acdc.theory.experiment."""
