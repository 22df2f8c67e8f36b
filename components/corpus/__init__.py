"""Read, clean, deduplicate and split documents; draw prompt-completion pairs from them (Ray Data)."""
