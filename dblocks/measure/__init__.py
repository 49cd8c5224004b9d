"""What training in blocks saves, measured on made-up data of the right shape: memory, wall time, operations."""
