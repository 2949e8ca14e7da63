"""Serves the REST data plane, the management API, hub settings and keys."""
