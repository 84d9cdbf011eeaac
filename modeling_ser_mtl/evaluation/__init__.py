"""Metrics, verification trials and reports."""
