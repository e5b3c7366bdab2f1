"""Talks to the OpenCode server."""
