"""Text to token ids and back: sentencepiece BPE, or bytes."""
