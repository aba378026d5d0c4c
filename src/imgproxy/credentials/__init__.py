"""Content Credentials (C2PA) as the edge sees them: which original has some, and what was done to it."""
