"""A soak: a server under a steady load with faults for long, which may neither grow nor lose a word.

`python -m tests.soak` (`make soak`) starts a server, lets clients come, go and misbehave by a seed, and
looks at the process every few seconds. R31 in docs/reliability.md.
"""
