"""Manifests, audio decoding, collation, augmentation and splits."""
