"""Held-out loss of every head, and completion of real text through real generation."""
