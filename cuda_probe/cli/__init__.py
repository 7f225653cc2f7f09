"""The commands probe-gpu, bench-sampling and monitor-gpu, one file each."""
