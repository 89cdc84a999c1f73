"""The component for programs in any language: what `pulumi package add` starts (docs/package.md)."""

from immich_exposure.components.package import plugin

if __name__ == "__main__":
    plugin.main()
