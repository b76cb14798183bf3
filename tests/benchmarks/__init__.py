"""The benchmarks still run, whatever their numbers are."""
