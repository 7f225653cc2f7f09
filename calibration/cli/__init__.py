"""The commands calibrate and validate, one file each."""
