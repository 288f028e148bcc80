"""`python -m seggpt` is the console program `seggpt`."""

import sys

from seggpt.commands import main

if __name__ == "__main__":
    sys.exit(main())
