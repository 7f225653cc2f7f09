"""Holds forecasts against measurements: reads published results, fits what they leave open, states the error."""
