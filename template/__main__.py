"""The program: the stack's config in, one exposure, its outputs out."""

import signal
import sys

import pulumi
from immich_exposure.components.config.stack_config import from_pulumi
from immich_exposure.components.exposure import ImmichExposure

# A failed run ends with an interrupt from the language host, which Python would report with a traceback.
signal.signal(signal.SIGINT, signal.SIG_DFL)

try:
    exposure = ImmichExposure("immich", from_pulumi())
except pulumi.RunError as error:
    pulumi.log.error(str(error))
    sys.exit(32)  # which tells the engine that the error has been shown

pulumi.export("url", exposure.url)
pulumi.export("inImmich", exposure.in_immich)
pulumi.export("public", exposure.public)
pulumi.export("checked", exposure.checked)
pulumi.export("devices", exposure.devices)
pulumi.export("bundlePasswords", exposure.bundle_passwords)
pulumi.export("frameSecrets", exposure.frame_secrets)
