"""The fuzzer: all four devices wired together, native machine against reference machine.

    python -m tests.fuzz --accesses 1000000 --seed 1

`board.py` builds the machine, `programs.py` and `phrases.py` make what a guest
and its host may do with it, `lockstep.py` does it on both machines and checks
the invariants, `exact.py` says from the saved state alone what must be due
when, `coverage.py` says what is new, `campaign.py` looks for what is new.
"""
