"""What was decoded: records, their journal, summaries, report, pictures and checks; runs no model."""
