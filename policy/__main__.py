"""The entry point of the policy pack for Pulumi."""

import sys
from pathlib import Path

# Pulumi starts the folder, so only the folder's own files can be imported.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from policy.pack import main

main()
