"""What the children of a component inherit."""

from __future__ import annotations

import pulumi


def child_of(
    component: pulumi.ComponentResource, opts: pulumi.ResourceOptions | None
) -> pulumi.ResourceOptions:
    """Return options for a child of ``component`` that waits for all that the component waits for.

    The engine does not hand a component's own ``depends_on`` down to its children.
    """
    return pulumi.ResourceOptions(parent=component, depends_on=None if opts is None else opts.depends_on)
