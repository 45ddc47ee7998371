"""LeNet5 on MNIST: the tables and figures of the paper, and the pilot before them."""
