"""The life of a cluster, from what was asked for to its end."""
