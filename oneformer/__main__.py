"""`python -m oneformer` is the console program `oneformer`."""

import sys

from oneformer.commands import main

if __name__ == "__main__":
    sys.exit(main())
