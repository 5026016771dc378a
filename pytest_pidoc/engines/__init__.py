"""The engines: what starts a node from an image."""
