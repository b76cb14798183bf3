"""The code in README.rst and docs/ does what it says there."""
