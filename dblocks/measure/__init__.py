"""What training saves, measured: memory and wall time, on made-up data of the right shape."""
