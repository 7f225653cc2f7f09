"""What is said of results: forecasts, verdicts, schedules, reports, pictures."""
