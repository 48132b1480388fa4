"""Learning: objective, batches, the loop of gradient rules, EM, initialisation and model selection."""
