"""What a careful owner holds every exposure to, as rules of their own: see docs/review.md.

`rules.py` is pure and needs nothing but Python. The program and `components.describe` look at the settings
with it; `pack.py` makes a policy pack of it, which looks at the resources, whatever program has made them.
"""
