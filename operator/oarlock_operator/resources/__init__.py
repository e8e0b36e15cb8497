"""The child objects, one file each: pure functions from a cluster to a manifest."""
