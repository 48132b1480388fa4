"""What a model does not know: calibrated confidence, familiarity, and what may be promised of sorted pictures."""
