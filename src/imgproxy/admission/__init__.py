"""The one decision for each request that needs a render: admit, wait, or refuse with 503."""
