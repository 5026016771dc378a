"""The cache of images: what an image is, and that it is whole."""
