"""Rounds of random faults over several processes, repeatable by seed, judged by a checker.

`checker` says what may not happen (pure), `plan` what a round does (pure, from the seed), `clients` read and
take notes, `faults` is the table of what is done to processes and stores, `house` what it is done to,
`rounds` one round from its plan to its verdict. `python -m tests.chaos` runs them; see docs/reliability.md.
"""
