"""Launches, locks and proves a sandbox through the vercel-sandbox SDK."""
