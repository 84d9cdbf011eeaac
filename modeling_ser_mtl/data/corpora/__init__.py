"""One small file per known corpus: a folder on disk becomes manifest rows."""
