"""The parts of a node that can go wrong on purpose: its clock, its disk, its processor."""
