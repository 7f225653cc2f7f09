"""One fit of the cost function, its diagnostics, the profile it makes."""
