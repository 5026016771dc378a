"""What belongs to this host: its processes, sockets, locks and small files."""
