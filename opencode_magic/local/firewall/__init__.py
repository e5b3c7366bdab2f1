"""Enforces core.policy on everything that leaves a sandbox."""
