"""What two passes over a text say of acceptance, token by token."""
