"""The torch target: the IR becomes a Python file that reads as if a person wrote it (`export.emit`)."""
