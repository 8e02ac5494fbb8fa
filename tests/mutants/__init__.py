"""Breaking the laws on purpose: a law whose code can be broken without a test that fails is not tested.

`python -m tests.mutants` breaks each of `laws.LAWS` in a copy of the code, one at a time, and runs the tests
that are said to prove it: one of them must fail.
"""
