"""Fault injection: breaks a running system and counts lost labels."""
