"""Run the reports' command line: ``python -m reports``."""

from acdc.console import main
from reports.cli import cli

if __name__ == "__main__":
    main(cli)
