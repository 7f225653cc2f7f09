"""AutoJudge: which mismatches matter, mined, learnt and used."""
