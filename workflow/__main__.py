"""``python -m workflow``, the same as the command ``acdc``."""

import os
import signal

if __name__ == "__main__":
    # Imports take seconds, and an interrupt in the middle of one can get lost in it. Nothing has
    # been started yet, so leaving at once is right; commands that start something handle it.
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))

    from workflow.cli import main

    main()
