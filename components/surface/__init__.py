"""What is known of Immich: what strangers may ask of it, its releases, and the versions that are too old."""
