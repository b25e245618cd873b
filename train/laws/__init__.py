"""What published runs say of the loss and of hyper-parameters, as functions."""
