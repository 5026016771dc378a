"""The Ethernet segment that the nodes of a cluster share, and what can go wrong with it."""
