"""What every package stands on: artefacts, checked reading, histograms, the frame of commands and pictures."""
