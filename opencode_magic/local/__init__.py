"""The embedded Sandbox API server (Linux)."""
