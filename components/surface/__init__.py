"""What is known about Immich: what strangers may request, its releases, and the unsupported versions."""
