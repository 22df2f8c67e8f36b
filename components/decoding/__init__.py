"""Next-token and self-speculative decoding, and its benchmark. Imports torch alone, `stage` aside."""
