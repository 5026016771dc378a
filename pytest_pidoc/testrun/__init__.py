"""The clusters of one pytest run, which its processes share."""
