"""Which pattern of sparsity costs how much accuracy, on MNIST."""
