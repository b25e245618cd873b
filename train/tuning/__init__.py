"""Hyper-parameters found by studies, and the loss to expect by ladders."""
