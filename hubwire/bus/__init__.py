"""The message bus: partitions, subjects, envelopes, the NATS adapter, and what is watched on it."""
