"""The client subprotocols as pure codecs, one file each."""
