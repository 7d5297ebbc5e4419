"""``python -m theory``: the experiments of the theory."""

from acdc.console import main
from theory.command import theory_command

if __name__ == "__main__":
    main(theory_command)
