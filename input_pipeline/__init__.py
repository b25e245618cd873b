"""What the model is trained on: from sources to batches."""
