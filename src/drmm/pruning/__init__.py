"""Smaller models: units that are seldom on are removed, and the others take over from them."""
