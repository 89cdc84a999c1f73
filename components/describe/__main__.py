"""`python -m components.describe OLD NEW`: what a change to a stack's settings does, in words."""

import sys

from components.describe.comment import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
