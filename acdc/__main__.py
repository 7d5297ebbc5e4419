"""``python -m acdc``, the library's commands."""

import signal

from acdc.cli import cli
from acdc.console import main

if __name__ == "__main__":
    # A job's shell ignores it, for the run to answer; until the run does, it ends the process.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    main(cli)
