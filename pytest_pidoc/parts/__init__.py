"""The parts of a node in which something can go wrong on purpose: network, clock, disk, CPU."""
