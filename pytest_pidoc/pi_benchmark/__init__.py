"""Benchmarks as tests: what is counted, how a command is measured in a node, and the baseline that it is held against.

Of these modules only ``hooks`` and ``fixture`` know pytest; every run of pytest imports ``options`` and ``hooks``.
"""
