"""The golden record: small computations with fixed seeds, and the numbers that they gave.

    cases.py         every case, by name: `CASES`
    registry.py      how a case is declared, summarised and compared
    draws.py         cases of samplers, paths and adaptation
    fits.py          of training
    estimates.py     of metrics
    uses.py          of tasks, with shipped runs
    record.json      their numbers, written by `python -m tests.golden.record`

A change of words, files or abstractions leaves the record as it is. A change of numbers rewrites
it, in a commit that says why.
"""
