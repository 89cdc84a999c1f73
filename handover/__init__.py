"""What a person gets for a device: the install sheet, and the one-time page that hands the bundle over.

Knows `pki`, no Pulumi. `python -m handover` serves one device's bundle on the local network, once.
"""
