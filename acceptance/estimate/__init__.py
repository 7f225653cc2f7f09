"""Numbers from a trace: histograms, intervals, policies, their report and pictures."""
