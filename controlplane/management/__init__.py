"""Azure's management API, as far as a self-hosted service has something to manage (management-api.md).

router    paths without regard to case, credentials, api-version; anything else is refused clearly
resource  the one resource that an instance is, and what stands around it
hubs      hub settings: list, get, put, delete
keys      listKeys, regenerateKey
errors    the shape of errors, which is not the data plane's
"""
