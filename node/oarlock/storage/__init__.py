"""The truth on disk: write-ahead log, snapshots, and the identity of a data directory."""
