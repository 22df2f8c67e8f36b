"""Small tasks whose answer is known: where more heads help a small model, and where not (paper section 4)."""
