"""The images: what a node boots from, and where it is kept."""
