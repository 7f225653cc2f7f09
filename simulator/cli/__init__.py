"""The commands simulate, sweep and profiles, one file each."""
