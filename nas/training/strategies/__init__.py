"""Which paths of a supernet a training step computes, one file a strategy."""
