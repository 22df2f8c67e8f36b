"""What a person runs. Each file reads top to bottom like a recipe."""
