"""Sources of images: where they are, how they are fetched and unpacked."""
