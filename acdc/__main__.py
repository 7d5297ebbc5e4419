"""``python -m acdc``, the same as the command ``acdc``."""

from acdc.cli import main

if __name__ == "__main__":
    main()
