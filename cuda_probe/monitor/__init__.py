"""What a GPU draws and does while a command runs."""
