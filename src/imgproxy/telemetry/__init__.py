"""What the service says of itself: logs, metrics, traces, and reports of unexpected errors."""
