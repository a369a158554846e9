"""`meristem quickstart`: its text, its measures, its run."""
