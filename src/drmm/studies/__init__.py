"""What tests the theory: published tables, predictions, scenes, dynamic programming, benchmarks."""
