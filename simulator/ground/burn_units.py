"""What one burn unit is worth: the exchange rate between workflops, workmem, FLOP and bytes (model, section 7).

The figures are per thread of the grid that runs the burn, and the kernels in `cuda_probe/kernels/probe.cu` state the
same beside their loops. Constants only.
"""

FLOP_PER_WORKFLOPS = 6
"""One `workflops` unit: one iteration of three dependent fused multiply-adds in every thread."""

BYTES_READ_PER_WORKMEM = 4
"""One `workmem` unit: one pass in which every thread reads one float ..."""

BYTES_WRITTEN_PER_WORKMEM = 4
"""... and writes it back."""

BYTES_PER_WORKMEM = BYTES_READ_PER_WORKMEM + BYTES_WRITTEN_PER_WORKMEM

FLOP_PER_WORKMEM = 2
"""The one fused multiply-add between a pass's read and its write."""
