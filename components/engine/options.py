"""What the children of a component inherit."""

from __future__ import annotations

import os

import pulumi


def is_for_a_plan() -> bool:
    """Tell whether this preview is made for its plan (`.github/workflows/preview.yml`).

    What such a preview reads from the server, or cannot read at all, is unknown in it. So its plan fits a
    `pulumi up` that repairs later changes on the server, or that has a key which the runner lacks. An
    ordinary preview shows what it read, and leaves out what it cannot read.
    """
    return pulumi.runtime.is_dry_run() and "IMMICH_EXPOSURE_PLAN" in os.environ


def child_of(
    component: pulumi.ComponentResource, opts: pulumi.ResourceOptions | None
) -> pulumi.ResourceOptions:
    """Return options for a child of ``component`` that waits for everything the component waits for.

    The engine does not pass a component's own ``depends_on`` on to its children.
    """
    return pulumi.ResourceOptions(parent=component, depends_on=None if opts is None else opts.depends_on)
