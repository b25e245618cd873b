"""Configurations: base.py holds every field, the others start from it."""
