"""``python -m tracking``: send a study's results to MLflow."""

from acdc.console import main
from tracking.command import sync_command

if __name__ == "__main__":
    main(sync_command)
