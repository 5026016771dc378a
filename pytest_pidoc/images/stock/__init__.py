"""Images that others have made: Raspberry Pi OS, and the user's own."""
