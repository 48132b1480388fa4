"""The label page's server: one person on this machine, and nobody else."""
