"""What two or more services must agree on: the contract's stubs, streams, worker life, clock, logs."""
