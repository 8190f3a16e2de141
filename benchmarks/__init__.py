"""Figures: ``python -m benchmarks NAME`` prints one JSON line each; ratios are side by side."""
