"""How a model is built, of a preset or of a net of one's own, and how it lies in a folder."""
