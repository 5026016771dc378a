"""The program QEMU: its command line, its protocols, and machines that it saves and restores."""
