"""Two homes of one family, each with its own server, keystore and devices."""

from __future__ import annotations

import pulumi
from immich_exposure import Device, ImmichExposure

config = pulumi.Config()
phones: list[Device] = [
    {"name": "phone-anna", "platform": "ios"},
    {"name": "phone-ben", "platform": "android"},
]

home = ImmichExposure(
    "home",
    {
        "host": "192.168.1.20",
        "hostKey": config.require("homeKey"),
        "keystorePassphrase": config.require_secret("keystorePassphrase"),
        "devices": phones,
    },
)
cabin = ImmichExposure(
    "cabin",
    {
        "host": "192.168.2.20",
        "hostKey": config.require("cabinKey"),
        "keystorePassphrase": config.require_secret("keystorePassphrase"),
        "devices": phones[:1],
        "leaseHours": 72,
    },
)

for exposure, name in ((home, "home"), (cabin, "cabin")):
    pulumi.export(name, {"url": exposure.url, "public": exposure.public, "devices": exposure.devices})
