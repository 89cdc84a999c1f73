"""The rules for a safe exposure: see docs/review.md.

`rules.py` is pure and needs nothing but Python. The program and `components.describe` apply it to the
settings; `pack.py` turns it into a policy pack, which examines the resources, whatever program made them.
"""
