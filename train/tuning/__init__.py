"""Hyper-parameters, and the loss to expect, found by training small models."""
