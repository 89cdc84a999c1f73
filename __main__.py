"""The Pulumi program: the stack's config in, one exposure, its outputs out."""

import signal
import sys

import pulumi

from components.config.stack_config import from_pulumi
from components.exposure import ImmichExposure

# A failed run ends with an interrupt from the language host. Python would report it with a traceback, twice,
# which buries the sentence that says what is wrong.
signal.signal(signal.SIGINT, signal.SIG_DFL)

# The status by which pulumi-language-python's own executor says that the error has been shown; after any
# other, the engine adds that "an unhandled error occurred".
ERROR_WAS_SHOWN = 32

try:
    exposure = ImmichExposure("immich", from_pulumi())
except pulumi.RunError as error:
    pulumi.log.error(str(error))
    sys.exit(ERROR_WAS_SHOWN)

pulumi.export("url", exposure.url)
pulumi.export("inImmich", exposure.in_immich)
pulumi.export("public", exposure.public)
pulumi.export("checked", exposure.checked)
pulumi.export("devices", exposure.devices)
pulumi.export("bundlePasswords", exposure.bundle_passwords)
pulumi.export("frameSecrets", exposure.frame_secrets)
