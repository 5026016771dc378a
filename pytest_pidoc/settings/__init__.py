"""What can be chosen, and what was chosen: the settings of a run, and what a cluster is asked to be."""
