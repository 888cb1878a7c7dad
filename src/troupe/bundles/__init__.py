"""Models on disk: weights, description, tokenizer, digests; reading and writing other people's formats."""
