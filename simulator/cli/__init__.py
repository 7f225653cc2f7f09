"""The commands simulate, sweep, profiles and shapes, one file each."""
