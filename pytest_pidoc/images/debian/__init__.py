"""The image that is built from Debian's packages."""
