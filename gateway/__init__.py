"""Terminates client WebSockets: protocols, sessions, the local hub, delivery."""
