"""The frames of a configuration: picture frames, televisions and the like, which send a secret header."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from components.config.checks import device_name_problem
from components.config.reader import Section

FRAMES_EXAMPLE = "[{name: frame-kitchen}]"


@dataclass(frozen=True)
class FrameConfig:
    """A frame that may read photos and albums: its name in the keystore and on the server."""

    name: str


def read_frames(top: Section) -> tuple[FrameConfig, ...]:
    """Read the list `frames`, without those marked as revoked."""
    frames: list[FrameConfig] = []
    revoked: set[str] = set()
    for section in top.sections("frames", example=FRAMES_EXAMPLE):
        name = section.text(
            "name", example="frame-kitchen", missing="a frame needs a name", check=device_name_problem
        )
        if section.boolean("revoked", default=False):
            revoked.add(name)
        section.refuse_unknown()
        twin = next((each.name for each in frames if each.name.lower() == name.lower()), None)
        if twin is not None and not section.problems.has(section.name("name")):
            reason = f"clashes with the frame {twin!r}; names may not differ in case alone"
            section.report("name", reason, "frame-kitchen-2")
        frames.append(FrameConfig(name))
    return tuple(frame for frame in frames if frame.name not in revoked)


def check_frame_names(top: Section, frames: Collection[FrameConfig], devices: Collection[str]) -> None:
    """Refuse a frame with a device's name: revoking is by name, so a name must identify one of them."""
    for frame in frames:
        device = next((each for each in devices if each.lower() == frame.name.lower()), None)
        if device is not None:
            reason = f"is already the name of the device {device!r}; give the frame another name"
            top.problems.add("frames", frame.name, reason, f"`name: frame-{frame.name}`")
