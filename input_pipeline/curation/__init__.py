"""What a document must be to be trained on, and what is changed in it."""
