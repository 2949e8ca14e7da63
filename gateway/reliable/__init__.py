"""Reliable sessions: a deterministic fold over the gateway's inbox (DESIGN.md section 5)."""
