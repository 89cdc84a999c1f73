"""Where Pulumi starts the policy pack."""

import sys
from pathlib import Path

# Started by its folder, it knows its own files alone.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from policy.pack import main

main()
