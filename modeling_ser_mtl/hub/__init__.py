"""Model card and what else a published model needs."""
