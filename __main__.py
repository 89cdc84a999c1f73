"""The Pulumi program: the stack's config in, one exposure, its outputs out."""

import pulumi

from components.config import from_pulumi
from components.exposure import ImmichExposure

exposure = ImmichExposure("immich", from_pulumi())

pulumi.export("url", exposure.url)
pulumi.export("public", exposure.public)
pulumi.export("checked", exposure.checked)
pulumi.export("devices", exposure.devices)
pulumi.export("bundlePasswords", exposure.bundle_passwords)
