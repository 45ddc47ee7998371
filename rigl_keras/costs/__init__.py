"""What a sparse model costs: parameters, FLOPs, bytes."""
