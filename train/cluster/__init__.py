"""Which cluster a process belongs to: from flags, its launcher, or a TPU."""
