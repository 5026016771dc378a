"""What talks to the Linux inside a node."""
