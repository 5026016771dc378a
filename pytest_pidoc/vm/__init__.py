"""One node's QEMU: how it boots, shuts down and restarts, and the faults that a test can inject into it."""
