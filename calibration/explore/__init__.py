"""A local page over the commands: controls, address and command line say the same."""
