"""`python -m pki`: see `pki.commands`."""

import sys

from pki.commands import main

if __name__ == "__main__":
    sys.exit(main())
