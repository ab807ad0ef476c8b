"""What is announced when a batch is finished: stored first, then delivered."""
