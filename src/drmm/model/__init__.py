"""The generative model: the deep and the shallow rendering mixture, their priors, and their files."""
