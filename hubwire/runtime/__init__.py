"""What every process needs to run: logs, metrics, leases, supervised tasks, the local nats-server."""
