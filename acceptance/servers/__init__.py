"""Asks servers over HTTP: sends requests, reads what comes, says how it failed; bodies and answers of engines."""
