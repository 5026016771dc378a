"""The host's processes, sockets, locks and small files."""
