"""What a pass and a round cost: the one cost function, work of model shapes, hardware profiles, priced rounds."""
