"""What talks to the Docker daemon: images, containers, and their reaper."""
