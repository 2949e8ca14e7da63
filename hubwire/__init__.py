"""What the gateway, the router and the control plane share, and the command line."""

__version__ = "0.1.0"
