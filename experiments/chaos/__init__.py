"""Breaks a running system on purpose, and counts what was lost."""
