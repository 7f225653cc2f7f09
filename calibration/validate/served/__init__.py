"""Forecasts of loads that a real server was put under, request for request, held against what was measured."""
