"""Several nodes as one: what is done on all of them side by side."""
