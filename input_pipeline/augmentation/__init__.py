"""Changes of the training rows, made on the fly and different in each epoch."""
