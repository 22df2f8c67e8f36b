"""Tokenize and pack a corpus into memory-mappable shards (Ray Data, Arrow), and read them in any order."""
