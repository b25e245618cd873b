"""Which hyper-parameters are best: what is searched, and how."""
