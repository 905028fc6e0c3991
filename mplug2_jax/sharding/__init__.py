"""How parameters, optimizer state and batches lie on many devices."""
