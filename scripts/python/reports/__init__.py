"""What a run folder tells: plots and pages."""
