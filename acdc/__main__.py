"""``python -m acdc``, the same as the command ``acdc``."""

import signal
import sys

from acdc.run.forkserver import hand_over

if __name__ == "__main__":
    # Ignored by the shell of a job, for the run to answer; until it does, it ends the process.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    status = hand_over(sys.argv[1:])
    if status is None:
        from acdc.cli import cli
        from acdc.console import main

        main(cli)
    sys.exit(status)
