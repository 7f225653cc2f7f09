"""Results of commands as pages for a browser; a page says what a file says, and computes nothing anew."""
