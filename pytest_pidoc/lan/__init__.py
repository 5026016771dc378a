"""The Ethernet segment that the nodes of a cluster share, and the faults that a test can inject into it."""
