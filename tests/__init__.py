"""The tests: a package, so that ``python -m tests.performance`` is found, whatever else is called ``tests``."""
