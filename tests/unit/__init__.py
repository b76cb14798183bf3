"""The rooms that need no broker."""
