"""Forecasts held against measurements: published, decoded, timed, live."""
