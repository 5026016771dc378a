"""QEMU the program: its command line, its protocols, and a machine that it saves and goes on with."""
