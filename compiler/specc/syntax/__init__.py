"""Text to syntax tree: layout scanner, LALR tables, parser, messages for malformed input, and the way back to text."""
