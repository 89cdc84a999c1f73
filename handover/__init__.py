"""What a person gets for a device: the install sheet, and the one-time download page for the bundle.

Depends on `pki` but not on Pulumi. `python -m handover` serves a device's bundle on the local network, once.
"""
