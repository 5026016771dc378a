"""Benchmarks as tests: what is counted, how a command is measured in a node, and the baseline that it is held against.

Nothing here knows pytest; ``pytest_pidoc.pi_benchmark.fixture`` is the face.
"""
