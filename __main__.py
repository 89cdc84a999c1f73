"""The Pulumi program: the stack's config in, one exposure, its outputs out."""

import signal
import sys

import pulumi

from components.config.stack_config import from_pulumi
from components.exposure import ImmichExposure

# A failed run ends with an interrupt from the language host. Python would tell it as a traceback, twice, and
# bury the sentence that says what is wrong.
signal.signal(signal.SIGINT, signal.SIG_DFL)

# The status by which pulumi-language-python's own executor says that the user has been told; after any other
# the engine adds that "an unhandled error occurred".
TOLD = 32

try:
    exposure = ImmichExposure("immich", from_pulumi())
except pulumi.RunError as error:
    pulumi.log.error(str(error))
    sys.exit(TOLD)

pulumi.export("url", exposure.url)
pulumi.export("inImmich", exposure.in_immich)
pulumi.export("public", exposure.public)
pulumi.export("checked", exposure.checked)
pulumi.export("devices", exposure.devices)
pulumi.export("bundlePasswords", exposure.bundle_passwords)
pulumi.export("frameSecrets", exposure.frame_secrets)
