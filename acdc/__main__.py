"""``python -m acdc``, the same as the command ``acdc``."""

import sys

from acdc.nursery import hand_over

if __name__ == "__main__":
    status = hand_over(sys.argv[1:])
    if status is None:
        from acdc.cli import main

        main()
    sys.exit(status)
