"""Finds hyper-parameters: studies of many trials."""
