"""Join outcomes to predictions, and compare the model's live quality with the expected one."""
