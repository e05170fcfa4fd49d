"""One writer at a time: `writer` and `shards` are what is used, on locks between processes and nodes."""
