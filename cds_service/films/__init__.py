"""Films encoded when they arrive, so that no order waits for a pixel."""
