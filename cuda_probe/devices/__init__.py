"""What kernels and products run on: GPUs through CuPy, and a CPU."""
