"""What was measured, read for fits: probes, timed passes, logs of real decoding."""
