"""Arguments, trainer and callbacks."""
