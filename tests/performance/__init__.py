"""What pytest-pidoc itself costs, and whether it keeps what it promises: ``python -m tests.performance``."""
