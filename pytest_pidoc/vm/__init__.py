"""One running machine: how it comes up, goes off and comes back, and what can go wrong in it."""
