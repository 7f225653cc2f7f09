"""Forecasts held against published results: the fit of a case, its report and its picture."""
