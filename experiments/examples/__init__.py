"""Environments of your own, for docs/your_environment.md."""
