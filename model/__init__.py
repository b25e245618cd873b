"""What is computed: the transformer, its loss and its sampling."""
