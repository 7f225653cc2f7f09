"""What clients send: arrivals, lengths of prompts and answers, sessions, recorded traffic."""
