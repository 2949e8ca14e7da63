"""Owns partitions: who is a member where, and one order of messages a group."""
