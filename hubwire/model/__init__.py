"""Names, ids, limits, permissions, tokens, errors, messages: pure values and decisions."""
