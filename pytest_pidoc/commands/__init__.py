"""What each command of ``pidoc`` does; `parser` says which there are."""
